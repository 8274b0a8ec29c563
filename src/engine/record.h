/* SPDX-License-Identifier: Apache-2.0 */
/* Notes down what an executor is asked to do and how long it takes, and when requests came: one line
 * a step, piece of a chunk or request, in a text file. `bench calibrate` fits its table to one, and
 * the simulator can replay the times. An engine over record_executor computes the same as over the
 * executor itself. */
#ifndef SUPERNODE_ENGINE_RECORD_H
#define SUPERNODE_ENGINE_RECORD_H

#include "engine/engine.h"

enum record_kind { RECORD_STEP, RECORD_PIECE };

struct record_work {
    enum record_kind kind;
    uint64_t begin_ns, end_ns;
    uint32_t runs, rows;
    uint64_t keys;    /* a step's: keys that its runs see; a piece's: pairs of row and key */
    uint64_t earlier; /* keys before prompt rows, which may be expanded again */
    uint32_t tails;   /* a step's: rows of prompt tails beyond one a run */
    uint32_t drafts, guesses; /* verified; wanted, of this many runs */
    uint32_t drawn;
    bool begins, over; /* a piece: the chunk's first, its last */
    uint64_t until_ns; /* a piece: when it should end */
    bool left_out;     /* by who fits a table: its time says nothing */
};

struct record_request {
    uint64_t arrived_ns, taken_ns; /* the front had it whole; the engine took it */
    uint32_t n_prompt;
};

struct record;
/* x is borrowed. ST_IO: the file cannot be written. */
enum st ST_CHECKED record_open(struct record **out, const char *path, const struct executor *x,
                               const struct engine_options *o, struct err *err);
const struct executor *record_executor(const struct record *r);
/* The engine takes a request now; by the thread that computes. */
void record_request(struct record *r, uint32_t n_prompt, uint64_t arrived_ns);
/* Whole lines are in the file when it returns; NULL is allowed. ST_IO: some were not written. */
enum st ST_CHECKED record_close(struct record *r, struct err *err);

/* What an executor was and did. */
struct record_file {
    struct executor x; /* its numbers only */
    char model_id[REQUEST_MODEL_ID_BYTES];
    struct engine_options engine;
    struct record_work *v;           /* [n] */
    struct record_request *requests; /* [n_requests] */
    uint64_t n, n_requests;
};
/* ST_INVALID: "FILE: line N: ...". A last line without its end is left out. */
enum st ST_CHECKED record_read(struct record_file *f, const char *path, struct err *err);
void record_file_release(struct record_file *f);

/* Seconds; below 0 where the second comes first. */
static inline double record_between(uint64_t from_ns, uint64_t to_ns) {
    return (double)(int64_t)(to_ns - from_ns) / 1e9;
}

static inline double record_seconds(const struct record_work *w) {
    return (double)(w->end_ns - w->begin_ns) / 1e9;
}

enum { RECORD_PAUSE_NS = 1000000 };
/* Whether the engine rested before work i: more than a millisecond lies between, and more than the tokens
 * of a step before it may take that are sent meanwhile. */
static inline bool record_rested(const struct record_file *f, uint64_t i) {
    if (i == 0) return true;
    const struct record_work *last = &f->v[i - 1];
    uint64_t sent_ns = last->kind == RECORD_STEP ? (uint64_t)last->runs * 50000 : 0;
    return f->v[i].begin_ns > last->end_ns &&
           f->v[i].begin_ns - last->end_ns >= RECORD_PAUSE_NS + sent_ns;
}

/* A chunk: all of its pieces. */
struct record_chunk {
    const struct record_work *first, *last; /* pieces; first: NULL, it began before */
    double s;                               /* sum of the pieces' times */
    uint32_t resumed;                       /* pieces but the first that came right after a step */
    double steps_s;                         /* sum of those steps' times */
    bool whole; /* its beginning is there too, and no piece is left out */
};
/* The next that ends from *i on, which moves behind it; false: none does. */
bool record_next_chunk(struct record_chunk *out, const struct record_file *f, uint64_t *i);

#endif
