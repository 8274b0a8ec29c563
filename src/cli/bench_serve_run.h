/* SPDX-License-Identifier: Apache-2.0 */
/* Sends a load to a server and times every answer as it streams in, all on one thread. Open loop:
 * an arrival never waits for an answer, and its times count from when it was due, so a client or
 * server that falls behind shows (Tene's "coordinated omission"). Only where all requests are due
 * at once and a concurrency limit paces them do times count from the sending. */
#ifndef SUPERNODE_CLI_BENCH_SERVE_RUN_H
#define SUPERNODE_CLI_BENCH_SERVE_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/bench_serve_load.h"
#include "cli/http_client.h"

enum bench_fault {
    BENCH_OK,
    BENCH_NO_CONNECT,
    BENCH_TIMEOUT,
    BENCH_CUT,       /* the stream ended without [DONE] */
    BENCH_HTTP,      /* a status other than 200 */
    BENCH_EVENT,     /* an error object in the stream */
    BENCH_MALFORMED, /* an event that is no JSON, or too long */
    BENCH_EMPTY,     /* no text */
    BENCH_FAULTS,
};

/* Times are ns after the start of the run. first and last are those of the chunks with text. */
struct bench_result {
    uint64_t from_ns, sent_ns, first_ns, last_ns;
    uint32_t input_tokens, output_tokens; /* as the server counts, else as we do */
    uint32_t n_gaps, gaps_cap;
    float *gaps_ms; /* between chunks with text */
    enum bench_fault fault;
    bool connects; /* a connection was made for it */
    int status;
};

enum { BENCH_BURST = 32 }; /* requests that are sent before answers are read */

struct bench_target {
    struct event_base *base;
    struct http_client *client;
    const char *endpoint, *model;
    bool chat, ignore_eos, paced; /* paced: times count from the sending */
    bool quiet;                   /* no bar of its own */
    double temperature;
    uint32_t concurrency_max;
};

struct bench_run {
    uint32_t len;
    struct bench_result *v;
    uint64_t begun_ns;    /* clock_now_ns */
    uint64_t duration_ns; /* to the end of the last answer */
    uint32_t concurrency_peak;
    struct err sample; /* what the first failure said; zero if nothing did */
};

/* An event loop whose timers are not rounded to milliseconds; NULL: out of memory. */
struct event_base *bench_base_new(void);
enum st ST_CHECKED bench_run(struct bench_run *run, const struct bench_target *t,
                             const struct bench_load *l, struct err *err);
void bench_run_release(struct bench_run *run);

/* The request with this prompt (JSON) as the endpoint wants it. */
enum st ST_CHECKED bench_body(struct buf *out, const struct bench_target *t, const char *prompt,
                              uint32_t output_len, bool stream);

#endif
