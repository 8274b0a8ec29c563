/* SPDX-License-Identifier: Apache-2.0 */
/* Implements metrics.h. */
#include "serve/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "serve/metrics_text.h"

#define P METRICS_PREFIX

const char *metrics_abort_name(enum metrics_abort why) {
    static const char *const names[METRICS_ABORTS] = {[ABORT_LEFT_WAITING] = "left_waiting",
                                                      [ABORT_LEFT_READING] = "left_reading",
                                                      [ABORT_NOT_READING] = "not_reading",
                                                      [ABORT_STOPPED] = "stopped",
                                                      [ABORT_ERROR] = "error"};
    assert(why < METRICS_ABORTS);
    return names[why];
}

void metrics_count(struct metrics *m, const char *path, int status) {
    uint32_t i = 0;
    while (i < m->n_http && (m->http[i].path != path || m->http[i].status != status)) i++;
    if (i == METRICS_HTTP_MAX) return;
    if (i == m->n_http) {
        m->http[i].path = path;
        m->http[i].status = status;
        m->n_http++;
    }
    m->http[i].n++;
}

/* --- engine ----------------------------------------------------------------------------------- */

static void engine_gauges(struct json_out *o, const char *model, const struct engine_stats *s) {
    const struct {
        const char *name, *help;
        double v;
    } rows[] = {
        {P "num_requests_running", "Sequences that are being computed.", s->running},
        {P "num_requests_waiting", "Sequences that wait to be computed.", s->waiting},
        {P "kv_cache_usage_perc", "Part of the KV pages that sequences hold, 0 to 1.",
         s->pages ? (double)s->pages_used / s->pages : 0},
        {P "kv_pages", "KV pages there are, of 128 tokens each.", s->pages},
        {P "kv_pages_cached", "Free KV pages whose blocks can still be found again.",
         s->pages_cached},
        {P "batch_limit", "Sequences that may be computed at once at present (--tpot-ms).",
         s->seqs_max},
        {P "step_seconds", "Moving average of a decode step, pieces of prompts between included.",
         s->step_s},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        metrics_family(o, rows[i].name, "gauge", rows[i].help);
        metrics_sample(o, rows[i].name, "", model, NULL, NULL, rows[i].v);
    }
}

static void engine_counters(struct json_out *o, const char *model, const struct engine_stats *s) {
    const struct {
        const char *name, *help;
        uint64_t v;
    } rows[] = {
        {P "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
         s->prefix_queries},
        {P "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", s->prefix_hits},
        {P "prompt_tokens_total", "Prompt tokens of requests that were computed.",
         s->prompt_tokens},
        {P "prompt_tokens_computed_total", "Of them, those not taken from the prefix cache.",
         s->prompt_tokens_computed},
        {P "generation_tokens_total", "Tokens generated.", s->generation_tokens},
        {P "num_preemptions_total", "Sequences put back because KV pages ran out.", s->preemptions},
        {P "steps_total", "Decode steps.", s->steps},
        {P "prompt_chunks_total", "Prompt chunks.", s->chunks},
        {P "spec_decode_num_drafts_total", "Times that draft tokens were verified.",
         s->spec_drafts},
        {P "spec_decode_num_draft_tokens_total", "Draft tokens verified.", s->spec_draft_tokens},
        {P "spec_decode_num_accepted_tokens_total", "Draft tokens accepted.", s->spec_accepted},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        metrics_family(o, rows[i].name, "counter", rows[i].help);
        metrics_sample(o, rows[i].name, "", model, NULL, NULL, (double)rows[i].v);
    }
    static const char busy[] = P "engine_busy_seconds_total";
    metrics_family(o, busy, "counter", "Time spent computing, by what was computed.");
    metrics_sample(o, busy, "", model, "work", "decode", s->step_busy_s);
    metrics_sample(o, busy, "", model, "work", "prefill", s->chunk_busy_s);
    static const char by_position[] = P "spec_decode_num_accepted_tokens_per_pos_total";
    metrics_family(o, by_position, "counter",
                   "Draft tokens accepted, by their place in the draft.");
    for (int i = 0; i < STATS_DRAFTS_MAX; i++) {
        char place[8];
        snprintf(place, sizeof place, "%d", i);
        metrics_sample(o, by_position, "", model, "position", place,
                       (double)s->spec_accepted_at[i]);
    }
    static const char *const reasons[STATS_FINISHES] = {[STATS_FINISH_STOP] = "stop",
                                                        [STATS_FINISH_LENGTH] = "length",
                                                        [STATS_FINISH_ABORT] = "abort",
                                                        [STATS_FINISH_ERROR] = "error"};
    metrics_family(o, P "request_success_total", "counter", "Requests that ended, by why.");
    for (int i = 0; i < STATS_FINISHES; i++)
        metrics_sample(o, P "request_success_total", "", model, "finished_reason", reasons[i],
                       (double)s->finished[i]);
}

static void engine_histograms(struct json_out *o, const char *model, const struct engine_stats *s) {
    metrics_histogram(o, P "time_to_first_token_seconds", model, &s->ttft,
                      "From a request's arrival to its first token.");
    metrics_histogram(o, P "inter_token_latency_seconds", model, &s->itl,
                      "Between two tokens of a sequence.");
    metrics_histogram(o, P "request_time_per_output_token_seconds", model, &s->tpot,
                      "A request's time between tokens, averaged over its answer.");
    metrics_histogram(o, P "e2e_request_latency_seconds", model, &s->e2e,
                      "From a request's arrival to its last token.");
    metrics_histogram(o, P "request_queue_time_seconds", model, &s->queue,
                      "From a request's arrival until it was first computed.");
    metrics_histogram(o, P "request_prefill_time_seconds", model, &s->prefill,
                      "From when a request was first computed to its first token.");
    metrics_histogram(o, P "request_decode_time_seconds", model, &s->decode,
                      "From a request's first token to its last.");
    metrics_histogram(o, P "request_prompt_tokens", model, &s->prompt_len,
                      "Prompt tokens of a request.");
    metrics_histogram(o, P "request_generation_tokens", model, &s->generation_len,
                      "Tokens generated for a request.");
    metrics_histogram(o, P "iteration_tokens", model, &s->iteration_tokens,
                      "Rows of a step: tokens computed at once.");
}

/* --- HTTP and the process --------------------------------------------------------------------- */

static void http_counters(struct json_out *o, const struct metrics *m) {
    static const char *const rejects[METRICS_REJECTS] = {
        [REJECT_OVERLOADED] = "overloaded",     [REJECT_BODIES] = "bodies",
        [REJECT_KEY_REQUESTS] = "key_requests", [REJECT_KEY_RATE] = "key_rate",
        [REJECT_UNAUTHORIZED] = "unauthorized", [REJECT_STOPPING] = "stopping",
        [REJECT_CONNECTIONS] = "connections"};
    metrics_family(o, P "http_requests_total", "counter",
                   "HTTP answers begun, by path and status.");
    for (uint32_t i = 0; i < m->n_http; i++) {
        char status[8];
        snprintf(status, sizeof status, "%d", m->http[i].status);
        json_out_raw(o, P "http_requests_total{");
        metrics_label(o, "path", m->http[i].path);
        json_out_raw(o, ",");
        metrics_label(o, "status", status);
        json_out_raw(o, "}");
        metrics_value(o, (double)m->http[i].n);
    }
    metrics_family(o, P "requests_rejected_total", "counter",
                   "Requests refused before any work, by why.");
    for (int i = 0; i < METRICS_REJECTS; i++)
        metrics_sample(o, P "requests_rejected_total", "", NULL, "reason", rejects[i],
                       (double)m->rejected[i]);
    metrics_family(o, P "requests_aborted_total", "counter",
                   "Requests whose answer did not reach the client whole, by why.");
    for (int i = 0; i < METRICS_ABORTS; i++)
        metrics_sample(o, P "requests_aborted_total", "", NULL, "reason", metrics_abort_name(i),
                       (double)m->aborted[i]);
}

static double cpu_seconds(clockid_t clock) {
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void memory_bytes(double *virtual, double *resident) {
    unsigned long long v, r;
    FILE *f = fopen("/proc/self/statm", "re");
    *virtual = *resident = 0;
    if (!f) return;
    if (fscanf(f, "%llu %llu", &v, &r) == 2) {
        *virtual = (double)v * (double)sysconf(_SC_PAGESIZE);
        *resident = (double)r * (double)sysconf(_SC_PAGESIZE);
    }
    fclose(f);
}

static double open_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    double n = -3; /* ".", ".." and the folder itself */
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void rows_of_front(struct json_out *o, const struct metrics_now *now) {
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {P "http_connections", "gauge", "Open connections.", now->connections},
        {P "http_requests_open", "gauge", "Completions and chats that wait, run or are being sent.",
         now->requests},
        {P "http_cpu_seconds_total", "counter", "CPU time of the thread that serves HTTP.",
         cpu_seconds(CLOCK_THREAD_CPUTIME_ID)},
        {P "engine_stuck_seconds", "gauge",
         "For how long no piece of work was finished although some waits.", now->stuck_s},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        metrics_family(o, rows[i].name, rows[i].type, rows[i].help);
        metrics_sample(o, rows[i].name, "", NULL, NULL, NULL, rows[i].v);
    }
}

void metrics_process(struct json_out *o, int64_t started_s) {
    struct rlimit files = {0};
    double virtual, resident;
    memory_bytes(&virtual, &resident);
    (void)getrlimit(RLIMIT_NOFILE, &files);
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {"process_cpu_seconds_total", "counter", "CPU time of the process, user and system.",
         cpu_seconds(CLOCK_PROCESS_CPUTIME_ID)},
        {"process_resident_memory_bytes", "gauge", "Memory in use, mapped weights included.",
         resident},
        {"process_virtual_memory_bytes", "gauge", "Address space in use.", virtual},
        {"process_open_fds", "gauge", "Open file descriptors.", open_fds()},
        {"process_max_fds", "gauge", "The most there may be.", (double)files.rlim_cur},
        {"process_start_time_seconds", "gauge", "Start of serving, seconds since 1970.",
         (double)started_s},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        metrics_family(o, rows[i].name, rows[i].type, rows[i].help);
        metrics_sample(o, rows[i].name, "", NULL, NULL, NULL, rows[i].v);
    }
    metrics_family(o, P "build_info", "gauge", "Always 1; the label says the version.");
    metrics_sample(o, P "build_info", "", NULL, "version", SUPERNODE_VERSION, 1);
}

void metrics_engine(struct json_out *o, const char *model, const struct engine_stats *s) {
    engine_gauges(o, model, s);
    engine_counters(o, model, s);
    engine_histograms(o, model, s);
}

void metrics_write(struct json_out *o, const struct metrics_now *now) {
    metrics_engine(o, now->model, now->engine);
    http_counters(o, now->http);
    rows_of_front(o, now);
    metrics_process(o, now->started_s);
}
