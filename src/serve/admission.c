/* SPDX-License-Identifier: Apache-2.0 */
/* A request's two ends as the operator sees them: whether it may begin (limits of the server and of
 * its key, before anything is parsed), and what is counted and logged when it is over. */
#include <stdio.h>

#include "base/clock.h"
#include "serve/server_impl.h"

static bool refuse(struct server *s, enum metrics_reject why) {
    s->metrics.rejected[why]++;
    return false;
}

static bool enter_by_key(struct server *s, struct auth_key *key, struct api_error *e) {
    const struct auth_limits *l = &s->o.auth->limits;
    uint32_t retry_s = 0;
    switch (auth_enter(s->o.auth, key, clock_now_ns(), &retry_s)) {
    case AUTH_ADMITTED: return true;
    case AUTH_TOO_MANY:
        (void)api_fail(e, 429, NULL, "rate_limit_exceeded",
                       "this API key has %u requests that wait or run, its limit is %u", key->open,
                       l->requests);
        e->retry_s = retry_s;
        return refuse(s, REJECT_KEY_REQUESTS);
    case AUTH_TOO_FAST:
        (void)api_fail(e, 429, NULL, "rate_limit_exceeded",
                       "this API key may send %u requests a minute; try again in %u s",
                       l->requests_per_minute, retry_s);
        e->retry_s = retry_s;
        return refuse(s, REJECT_KEY_RATE);
    }
    return true;
}

bool reply_admit(struct server *s, struct auth_key *key, size_t body_len, struct api_error *e) {
    if (s->stopping) {
        (void)api_fail(e, 503, NULL, "shutting_down", "the server is shutting down");
        return refuse(s, REJECT_STOPPING);
    }
    if (s->n_replies >= s->o.requests_max) {
        (void)api_fail(e, 503, NULL, "overloaded",
                       "%u requests wait or run already; try again later", s->n_replies);
        return refuse(s, REJECT_OVERLOADED);
    }
    if (body_len > s->o.bodies_bytes_max) { /* later there would be no room either */
        (void)api_fail(e, 413, NULL, NULL,
                       "request body: %zu bytes, and the limit (--max-waiting-bytes) is %llu",
                       body_len, (unsigned long long)s->o.bodies_bytes_max);
        return refuse(s, REJECT_BODIES);
    }
    if (body_len > s->o.bodies_bytes_max - s->body_bytes) {
        (void)api_fail(
            e, 503, NULL, "overloaded",
            "requests that wait or run hold %llu bytes already, and the limit is %llu; try "
            "again later",
            (unsigned long long)s->body_bytes, (unsigned long long)s->o.bodies_bytes_max);
        return refuse(s, REJECT_BODIES);
    }
    return !key || enter_by_key(s, key, e);
}

void reply_abort(struct reply *r, enum metrics_abort why) {
    if (r->aborted) return; /* the first reason is the reason */
    r->aborted = true;
    r->abort = why;
}

static void log_reply(const struct reply *r) {
    uint64_t now = clock_now_ns();
    uint32_t n_prompt = 0;
    for (uint32_t i = 0; i < r->job->n_records; i++) n_prompt += r->job->records[i].n_prompt;
    const struct log_field fields[] = {
        LOG_STR("id", r->job->id[0] ? r->job->id : "-"),
        LOG_STR("tenant", r->job->tenant),
        LOG_NUM("status", r->status),
        LOG_NUM("prompt_tokens", n_prompt),
        LOG_NUM("generated_tokens", r->n_tokens),
        LOG_NUM("ttft_ms", r->first_ns ? (double)(r->first_ns - r->begun_ns) / 1e6 : -1),
        LOG_NUM("total_ms", (double)(now - r->begun_ns) / 1e6),
        LOG_STR("finish", r->aborted         ? metrics_abort_name(r->abort)
                          : r->status >= 400 ? "error"
                          : r->finish        ? r->finish
                                             : "done"),
        {0},
    };
    log_event(r->server->o.log, LOG_INFO, "serve: request", fields);
}

void reply_account(struct reply *r) {
    if (r->key) auth_leave(r->key);
    if (r->aborted) r->server->metrics.aborted[r->abort]++;
    if (r->server->o.log_requests) log_reply(r);
}
