/* SPDX-License-Identifier: Apache-2.0 */
/* One request's way through the HTTP thread: body in, job out, tokens in, bytes out. A reply lives
 * until its job is done and its client has everything (or left); whichever comes last frees it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <event2/buffer.h>

#include "base/clock.h"
#include "serve/server_impl.h"

#include <event2/http_struct.h> /* wants http.h before it */

enum {
    OUT_MAX = ANSWER_BYTES_MAX,
    /* Of all answers together, whether they grow or wait for a slow reader; one that holds little
     * goes on beyond it. */
    HELD_BYTES_MAX = 512 << 20,
    HELD_BYTES_SMALL = 1 << 20,
    /* Jobs, and about as many bytes of their tokens, taken in one turn of the event loop: where
     * tokens come as fast as they are written there is always a next one, the log-probabilities of
     * a long prompt are megabytes, and sockets and timers must have their turn. */
    MAIL_MAX = 64,
    PIECE_BYTES = 64 << 10
};

static void cancel(struct reply *r) {
    worker_cancel(r->server->worker, r->job);
}

/* Its job and its client are both through: it is freed from outside of evhttp, whose callback this
 * may be. */
static void retire_if_over(struct reply *r) {
    struct server *s = r->server;
    if (!r->done || r->state != REPLY_OVER) return;
    r->over_next = s->over;
    s->over = r;
    event_active(s->mail, 0, 0);
}

/* Brings the server's sum up to date. False: the answers together are too much, and this one is not
 * small. */
static bool count_held(struct reply *r) {
    struct server *s = r->server;
    size_t n = r->sent_bytes + r->out.cap + (r->answering ? r->answer.n_bytes : 0);
    if (r->state == REPLY_OPEN && r->streaming) n += http_conn_unread(r->conn);
    s->held_bytes = s->held_bytes - r->held_bytes + n;
    r->held_bytes = n;
    return s->held_bytes <= HELD_BYTES_MAX || n <= HELD_BYTES_SMALL;
}

/* The client has it, or nobody waits for it. */
static void release_answer(struct reply *r) {
    if (r->answering) answer_release(&r->answer);
    r->answering = false;
    buf_release(&r->out);
    buf_release(&r->job->whole);
    (void)count_held(r);
}

/* --- sending ---------------------------------------------------------------------------------- */

/* evhttp wrote the last byte. */
static void reply_written(struct evhttp_request *req, void *arg) {
    struct reply *r = arg;
    (void)req;
    assert(r->state == REPLY_SENT);
    http_conn_unwatch(r->conn);
    r->state = REPLY_OVER;
    r->sent_bytes = 0;
    (void)count_held(r);
    retire_if_over(r);
}

/* The client left, or was dropped. */
static void reply_closed(void *arg) {
    struct reply *r = arg;
    if (r->state == REPLY_OPEN) atomic_store_explicit(&r->job->left, true, memory_order_relaxed);
    cancel(r);
    reply_abort(r, r->first_ns ? ABORT_LEFT_READING : ABORT_LEFT_WAITING);
    r->state = REPLY_OVER;
    r->sent_bytes = 0;
    (void)count_held(r);
    retire_if_over(r);
}

/* evhttp gets the rest and the request; the computation is not needed any more. */
static void hand_over(struct reply *r) {
    assert(r->state == REPLY_OPEN);
    r->state = REPLY_SENT;
    cancel(r);
    evhttp_request_set_on_complete_cb(r->req, reply_written, r);
    http_conn_replied(r->conn);
}

static void stream_begin(struct reply *r) {
    struct evkeyvalq *h = evhttp_request_get_output_headers(r->req);
    evhttp_add_header(h, "Content-Type", "text/event-stream; charset=utf-8");
    evhttp_add_header(h, "Cache-Control", "no-cache");
    /* without chunks (HTTP/1.0) only the close says where the answer ends */
    if (r->req->minor == 0 || r->server->stopping) evhttp_add_header(h, "Connection", "close");
    server_count(r->server, r->req, r->status = 200);
    evhttp_send_reply_start(r->req, 200, api_reason(200));
    r->streaming = true;
}

static void stream_send(struct reply *r) {
    struct evbuffer *chunk = evbuffer_new();
    if (!r->streaming) stream_begin(r);
    bool whole = chunk && evbuffer_add(chunk, r->out.data, r->out.len) == 0;
    if (whole) evhttp_send_reply_chunk(r->req, chunk);
    if (chunk) evbuffer_free(chunk);
    r->out.len = 0;
    if (!whole) http_conn_drop(r->conn); /* rather than text with a hole */
}

static void stream_end(struct reply *r) {
    struct evhttp_request *req = r->req;
    r->sent_bytes = http_conn_unread(r->conn);
    hand_over(r);
    evhttp_send_reply_end(req);
}

static void fail(struct reply *r, const struct api_error *e) {
    r->out.len = 0;
    if (!r->streaming) {
        struct evhttp_request *req = r->req;
        hand_over(r);
        r->status = e->status;
        server_send_error(r->server, req, e);
    } else if (answer_error_event(&r->out, e) == ST_OK) {
        stream_send(r);
        if (r->state == REPLY_OPEN) stream_end(r);
    } else {
        http_conn_drop(r->conn);
    }
}

static void send_what_is_there(struct reply *r) {
    if (!r->job->api.stream) {
        if (!r->answer.complete) return;
        struct evhttp_request *req = r->req;
        hand_over(r);
        r->status = 200;
        r->sent_bytes = r->out.len;
        server_send(r->server, req, 200, &r->out);
        return;
    }
    if (r->out.len == 0) return;
    /* before it is added to: an echoed prompt may be more than that by itself */
    if (http_conn_unread(r->conn) > SERVER_UNREAD_BYTES_MAX) {
        server_log(r->server, LINE_NOT_READING, "serve: client does not read, dropped", r->job->id,
                   (struct log_field)LOG_NUM("unread_bytes", http_conn_unread(r->conn)));
        reply_abort(r, ABORT_NOT_READING);
        http_conn_drop(r->conn);
        return;
    }
    stream_send(r);
    if (r->state == REPLY_OPEN && r->answer.complete) stream_end(r);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void log_unknown(struct reply *r) {
    if (r->job->api.unknown[0])
        server_log(r->server, LINE_UNKNOWN_FIELDS, "serve: ignored unknown fields", r->job->id,
                   (struct log_field)LOG_STR("fields", r->job->api.unknown));
}

static enum st answer_begin(struct reply *r) {
    const struct front *f = r->server->front;
    struct job *j = r->job;
    struct answer_head head = {.id = j->id,
                               .model = f->model,
                               .fingerprint = f->fingerprint,
                               .created = (int64_t)time(NULL)};
    r->answering = true;
    log_unknown(r);
    return answer_init(&r->answer, &head, &j->api, j->records, j->n_records, f->tok);
}

static void fail_answer(struct reply *r, enum st st) {
    struct api_error e;
    if (st == ST_FULL) /* the same request would get there again */
        (void)api_invalid(&e, NULL,
                          "the answer grew past %d MiB; ask for fewer tokens, choices or "
                          "log-probabilities, or for a stream",
                          ANSWER_BYTES_MAX >> 20);
    else if (st == ST_TIMEOUT)
        (void)api_fail(&e, 503, NULL, "overloaded",
                       "answers that wait to be read hold %d MiB already; try again later",
                       HELD_BYTES_MAX >> 20);
    else
        (void)api_fail(&e, 500, NULL, NULL,
                       st == ST_NO_MEMORY ? "out of memory"
                                          : "the prompt's log-probabilities are missing");
    reply_abort(r, ABORT_ERROR);
    fail(r, &e);
}

/* At most PIECE_BYTES of them; what nobody waits for is thrown away. */
static void take_tokens(struct reply *r) {
    struct token_logprob top[REQUEST_LOGPROBS_MAX];
    struct token_out t;
    struct job *j = r->job;
    size_t until = j->taken_at + PIECE_BYTES;
    uint32_t which;
    enum st st = ST_OK;
    if (r->state != REPLY_OPEN) {
        j->taken_at = j->taken.len;
        return;
    }
    while (!st && j->taken_at < until && job_token_next(j, &which, &t, top)) {
        if (!r->answering) st = answer_begin(r);
        if (!st) st = answer_token(&r->answer, which, &t, &r->out);
        if (st || r->answer.complete) break;
        if (answer_choice_over(&r->answer, which, t.choice)) job_choice_drop(j, which, t.choice);
    }
    if (!st && !count_held(r)) st = ST_TIMEOUT;
    if (st || (r->answering && r->answer.complete)) j->taken_at = j->taken.len;
    if (st) {
        fail_answer(r, st);
    } else if (r->answering) {
        r->n_tokens = r->answer.n_tokens;
        if (r->n_tokens && !r->first_ns) r->first_ns = clock_now_ns();
        r->finish = r->answer.prompts[0].choices[0].finish;
        send_what_is_there(r);
    }
    if (r->state != REPLY_OPEN) release_answer(r);
}

/* An answer that took no engine. */
static void send_ready_made(struct reply *r) {
    struct evhttp_request *req = r->req;
    if (r->server->held_bytes + r->job->whole.len > HELD_BYTES_MAX &&
        r->job->whole.len > HELD_BYTES_SMALL) {
        fail_answer(r, ST_TIMEOUT);
        return;
    }
    log_unknown(r);
    hand_over(r);
    r->status = 200;
    r->sent_bytes = r->job->whole.len;
    server_send(r->server, req, 200, &r->job->whole);
    release_answer(r);
}

static void take_done(struct reply *r) {
    struct api_error e = r->job->error;
    r->done = true;
    retire_if_over(r);
    if (r->state != REPLY_OPEN) return;
    if (e.status == 0 && r->job->whole.len) {
        send_ready_made(r);
        return;
    }
    if (e.status == 0)
        (void)api_fail(&e, 503, NULL, "shutting_down", "the server is shutting down");
    if (e.status >= 500) reply_abort(r, r->server->stopping ? ABORT_STOPPED : ABORT_ERROR);
    fail(r, &e);
}

/* --- life ------------------------------------------------------------------------------------- */

static void reply_free(struct reply *r) {
    struct server *s = r->server;
    *r->link = r->next;
    if (r->next) r->next->link = r->link;
    s->n_replies--;
    s->body_bytes -= r->job->body_len;
    s->held_bytes -= r->held_bytes;
    reply_account(r);
    if (r->answering) answer_release(&r->answer);
    buf_release(&r->out);
    job_free(r->job);
    free(r);
}

uint32_t replies_mail(struct server *s) {
    struct job *j;
    bool done;
    uint32_t n = 0;
    size_t bytes = 0;
    for (; n < MAIL_MAX && bytes < PIECE_BYTES && (j = mailbox_take(&s->mailbox, &done)); n++) {
        size_t from = j->taken_at;
        take_tokens(j->reply);
        bytes += j->taken_at - from;
        if (j->taken_at < j->taken.len)
            mailbox_put_back(&s->mailbox, j);
        else if (done)
            take_done(j->reply);
    }
    while (s->over) {
        struct reply *r = s->over;
        s->over = r->over_next;
        reply_free(r);
    }
    return n;
}

void replies_cancel(struct server *s) {
    for (struct reply *r = s->replies; r; r = r->next) cancel(r);
}

static char *copy_body(struct evhttp_request *req, size_t *len) {
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    *len = evbuffer_get_length(in);
    char *body = malloc(*len + 1);
    if (body && evbuffer_remove(in, body, *len) != (ev_ssize_t)*len) {
        free(body);
        return NULL;
    }
    return body;
}

static struct reply *reply_new(struct server *s, struct http_conn *conn, struct evhttp_request *req,
                               enum api_kind kind, struct auth_key *key) {
    size_t len;
    char *body = copy_body(req, &len);
    struct job *job = body ? job_new(kind, body, len) : NULL;
    struct reply *r = job ? calloc(1, sizeof *r) : NULL;
    if (!r) {
        job_free(job);
        return NULL;
    }
    *r = (struct reply){.server = s,
                        .job = job,
                        .conn = conn,
                        .req = req,
                        .state = REPLY_OPEN,
                        .key = key,
                        .begun_ns = clock_now_ns(),
                        .out = {.max = OUT_MAX}};
    job->reply = r;
    if (key) memcpy(job->tenant, key->tenant, sizeof job->tenant);
    r->next = s->replies;
    r->link = &s->replies;
    if (r->next) r->next->link = &r->next;
    s->replies = r;
    s->n_replies++;
    s->body_bytes += len;
    return r;
}

void reply_begin(struct server *s, struct evhttp_request *req, enum api_kind kind,
                 struct auth_key *key) {
    static const struct timeval no_time = {0, 0};
    struct api_error e;
    struct http_conn *conn = http_conn_of(&s->conns, req);
    size_t body_len = evbuffer_get_length(evhttp_request_get_input_buffer(req));
    if (!reply_admit(s, key, body_len, &e)) {
        server_send_error(s, req, &e);
        return;
    }
    struct reply *r = conn ? reply_new(s, conn, req, kind, key) : NULL;
    if (!r) {
        if (key) auth_leave(key);
        (void)api_fail(&e, 500, NULL, NULL, "out of memory");
        server_send_error(s, req, &e);
        return;
    }
    http_conn_watch(conn, req, reply_closed, r);
    worker_submit(s->worker, r->job);
    if (!evtimer_pending(s->submitted, NULL) && evtimer_add(s->submitted, &no_time))
        event_active(s->submitted, EV_TIMEOUT, 0);
}
