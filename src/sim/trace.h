/* SPDX-License-Identifier: Apache-2.0 */
/* Requests as a public trace tells of them: when they came, how long prompt and answer were, and (in
 * Mooncake's) which blocks of 512 tokens the prompt is made of. Reads Mooncake JSONL, Azure CSV
 * (TIMESTAMP,ContextTokens,GeneratedTokens) and CSV of lengths alone; plain or gzip.
 * Bursts stay bursts: Mooncake's conversation trace has all arrivals of three seconds at one time. */
#ifndef SUPERNODE_SIM_TRACE_H
#define SUPERNODE_SIM_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { TRACE_BLOCK_TOKENS = 512, TRACE_ROWS_MAX = 10000000, TRACE_TOKENS_MAX = 4 << 20 };

struct trace_row {
    double at_s; /* from the first; rows are in this order */
    uint32_t n_in, n_out;
    uint64_t block;    /* where its blocks begin in trace.blocks */
    uint32_t n_blocks; /* the first so many of its prompt are known; 0 in a CSV */
};

struct trace {
    struct trace_row *rows;
    uint32_t n_rows;
    bool has_times;
    uint32_t *blocks;
    uint64_t n_blocks;
    double span_s; /* from the first arrival to where the next copy of the trace begins */
};

/* n_max: rows after so many are not read; 0: all. path "-": standard input. ST_INVALID: "FILE: line
 * N: KEY: found ..., expected ...". */
enum st ST_CHECKED trace_open(struct trace *t, const char *path, uint32_t n_max, struct err *err);
enum st ST_CHECKED trace_read(struct trace *t, const char *bytes, size_t len, const char *name,
                              uint32_t n_max, struct err *err);
void trace_release(struct trace *t);

#endif
