/* SPDX-License-Identifier: Apache-2.0 */
/* What one server of this project costs on one machine, as a small table: a decode step by its
 * sequences and keys, a prompt chunk by its rows and keys, what lies between them, and what HTTP
 * takes. `bench calibrate` fits it to what a server recorded (calibration_fit); an engine alone in
 * virtual time (solo.h) takes its times from it. A file holds all that a prediction needs. */
#ifndef SUPERNODE_SIM_CALIBRATION_H
#define SUPERNODE_SIM_CALIBRATION_H

#include "engine/record.h"
#include "sim/sim_exec.h"

enum { CALIBRATION_KNOTS_MAX = 16, CALIBRATION_PARTS = 16 };

struct calibration {
    char model[256], cpu[128];
    uint32_t threads;
    /* Probes: the machine's state when it was measured (cli/limits.h). hop: the one it was longest
     * in, 0 where others had the cores; what was recorded in another is left out. */
    double read_gbs, hop_ns;
    struct engine_options engine;
    uint32_t n_pages, n_slots, max_model_len, vocab, rows_max;
    bool drafts;
    double expand_cost;
    struct {
        uint32_t n_knots;
        /* Linear between: a step, and what comes behind it. */
        double sequences[CALIBRATION_KNOTS_MAX], s[CALIBRATION_KNOTS_MAX],
            gap_s[CALIBRATION_KNOTS_MAX];
        double key_s;              /* a key that a sequence sees */
        double tail_s, tail_key_s; /* a row of a prompt tail, a key before it */
        double draft_s, guess_s;   /* a draft verified, a draft guessed */
        double guessing_s;         /* a step that guesses at all */
        /* A piece of t seconds evicts 1 - exp(-t / evicting_s) of what steps have in caches. One that finds
         * all of it gone takes so much more, and for each sequence; the next ones a half, a third, and so
         * on. Where a part e is gone, the next finds e / (1 + e). */
        double evicting_s, evicted_s, evicted_sequence_s;
        /* Right behind another step, whose tokens are sent beside it, it takes so much more, and for each
         * sequence. */
        double sent_s, sent_sequence_s;
        /* After the engine rested caches are cold: exp(-t / warming_s) of so much more, once t seconds
         * were computed. */
        double warming_s, cold_s;
        double stall_share; /* more that they take together, as a few take several times as long */
    } step;
    struct {
        double fixed_s, run_s, row_s, key_pair_s, earlier_s;
        /* What a chunk has more to do after each step that came between its pieces: a share of that step's
         * time, in which it used the caches, and a row. */
        double resume_share, resume_row_s;
        /* A piece ends with a tile, so long after it should: by the square root of the chunk's rows, as
         * tiles of more are cut finer, and by the keys that a row sees; times a factor of each of these parts
         * of a chunk, as operators have tiles of their own. */
        double over_root_row_s, over_key_s, over_parts[CALIBRATION_PARTS];
    } chunk;
    double gap_s;      /* behind a piece */
    double acceptance; /* of drafts */
    /* HTTP, text and client. From the end of a piece of work until its client has a prompt's first token,
     * or a later one; until an engine that rests takes what is ready; until a front that rests reads what
     * was to be sent by a client that rested too; and what a client's thread takes to make a request and a
     * connection for one, the server's to read one and to make tokens of its text, one after the other. */
    struct {
        double first_token_s, token_s, wake_s, front_wake_s, made_s, made_token_s, connect_s,
            read_s, read_token_s, text_token_s;
    } front;
    struct calibration_fit {
        /* dropped: took far longer than others like them; elsewhere: in another state */
        uint64_t steps, chunks, dropped, elsewhere;
        double step_error, chunk_error; /* medians of |measured - fitted| / measured */
        double step_bias, chunk_bias;   /* sum of fitted over sum of measured, less 1 */
    } fit;
};

/* What a client saw of a recorded server; clock_now_ns of both. */
struct calibration_seen {
    /* Requests with nobody beside them, in their order: when each was to be made, and its first and its
     * last token came. */
    const struct calibration_alone {
        uint32_t n_prompt;
        uint64_t due_ns, first_ns, last_ns;
    } * alone;
    /* Requests that it made right after another; between lies the other's connection, where it was
     * made for it. */
    const struct calibration_made {
        uint32_t n_prompt;
        bool connected;
        double s;
    } * made;
    /* So many requests sent at once, the first then; in the order of time. */
    const struct calibration_burst {
        uint64_t sent_ns;
        uint32_t n;
    } * bursts;
    /* Probes on the way, in their order. */
    const struct calibration_probe {
        uint64_t ns;
        double hop_ns;
    } * probes;
    uint32_t n_alone, n_made, n_bursts, n_probes;
};

/* Fills all but model, cpu, threads and read_gbs; f has what was not fitted to left out. ST_INVALID: too
 * little was recorded. */
enum st ST_CHECKED calibration_fit(struct calibration *c, struct record_file *f,
                                   const struct calibration_seen *seen, const char *name,
                                   struct err *err);
/* Its part for c->front (calibration_front.c). */
enum st ST_CHECKED calibration_front(struct calibration *c, const struct record_file *f,
                                     const struct calibration_seen *seen, const char *name,
                                     struct err *err);
struct sim_step calibration_recorded_step(const struct record_work *w);
/* What an engine did before, as far as its next step's time depends on that; {0}: nothing. */
struct calibration_past {
    double worked_s;  /* computed since it last rested */
    double evicted;   /* of what steps have in caches */
    double stepped_s; /* the time of a step, and nothing since; 0: something */
};
void calibration_rested(struct calibration_past *p);
/* It did a piece of work, or a step, of s seconds; calibration_rested first, where it rested before it. */
void calibration_worked(struct calibration_past *p, const struct calibration *c,
                        enum record_kind kind, double s);
struct sim_chunk calibration_recorded_chunk(const struct record_chunk *k);
double calibration_step_s(const struct calibration *c, const struct sim_step *s,
                          const struct calibration_past *p);
double calibration_chunk_s(const struct calibration *c, const struct sim_chunk *k);
double calibration_gap_s(const struct calibration *c, double requests); /* behind a step */
/* For one that goes on after a step of step_s. */
double calibration_resume_s(const struct calibration *c, const struct sim_chunk *k, double step_s);
/* What a recorded chunk had more to do than one without steps between its pieces. */
double calibration_resumed_s(const struct calibration *c, const struct record_chunk *k);
/* How late a piece ends that should end with this part of the chunk, 0 to 1. */
double calibration_over_s(const struct calibration *c, const struct sim_chunk *k, double part);

enum st ST_CHECKED calibration_write(const struct calibration *c, const char *path,
                                     struct err *err);
/* "FILE: line N: KEY: found ..., expected ...". */
enum st ST_CHECKED calibration_open(struct calibration *c, const char *path, struct err *err);

/* min over x >= 0 of the weighted sum of squares of (y - features x): features [n][n_features],
 * weights [n]. x [n_features] comes back; columns without a value other than 0 get 0. */
enum { LEAST_SQUARES_MAX = 32 };
void least_squares(double *x, uint32_t n_features, const double *features, const double *y,
                   const double *weights, size_t n);

#endif
