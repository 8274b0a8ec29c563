/* SPDX-License-Identifier: Apache-2.0 */
/* What `supernode bench serve` sends, and when: a table of requests (arrival, lengths, which blocks
 * the prompt shares with others), made of random lengths or read from a public trace. Prompts are
 * written when they are sent, since a trace's prompts together do not fit in memory. All of it is a
 * function of the seed. */
#ifndef SUPERNODE_CLI_BENCH_SERVE_LOAD_H
#define SUPERNODE_CLI_BENCH_SERVE_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

/* What prompts are made of: ids of the server's tokenizer where n_ids > 0, else words. */
struct bench_vocabulary {
    uint32_t *ids; /* NULL with n_ids > 0: the range 3..n_ids + 2 */
    uint32_t n_ids;
    double tokens_per_word; /* words only */
};

/* One arrival. Its prompt: the shared prefix, the blocks of its hashes, then tokens of its own. */
struct bench_request {
    uint64_t at_ns; /* after the start */
    uint32_t input_len, output_len;
    uint64_t hash_at;
    uint32_t n_hashes;
};

struct bench_load {
    uint64_t seed;
    uint32_t len;
    uint32_t prefix_len;   /* of every prompt, counted in input_len */
    uint32_t block_tokens; /* of one hash */
    struct bench_request *v;
    uint32_t *hashes;
    struct bench_vocabulary vocabulary;
};

struct bench_random {
    uint32_t n, input_len, output_len, prefix_len;
    double range_ratio; /* lengths are uniform in len * (1 - ratio) .. len * (1 + ratio) */
};

/* n_max 0 takes the whole trace; scale multiplies all lengths, speed the pace. */
struct bench_trace {
    const char *path;
    uint32_t n_max;
    double scale, speed;
};

/* Lengths only: all arrive at once until bench_load_arrivals. */
enum st ST_CHECKED bench_load_random(struct bench_load *l, const struct bench_random *r,
                                     struct err *err);
/* Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids) or Azure's CSV
 * (TIMESTAMP,ContextTokens,GeneratedTokens), told apart by the first byte; "-" is standard input.
 * Bursts stay bursts: Mooncake's conversation trace has all arrivals of three seconds at one time.
 */
enum st ST_CHECKED bench_load_trace(struct bench_load *l, const struct bench_trace *t,
                                    struct err *err);
/* Gaps from a gamma distribution of this shape with mean 1 / rate: 1 is Poisson, less is burstier.
 */
void bench_load_arrivals(struct bench_load *l, double rate, double burstiness);
void bench_load_release(struct bench_load *l);

/* Appends the prompt of request i as JSON: a list of ids, or a string. */
enum st ST_CHECKED bench_load_prompt(const struct bench_load *l, uint32_t i, struct buf *out);

/* n random words as JSON: for asking what the server makes of them. */
enum st ST_CHECKED bench_words(struct buf *out, uint32_t n, uint64_t seed);

#endif
