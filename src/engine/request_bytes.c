/* SPDX-License-Identifier: Apache-2.0 */
/* The record as bytes (request.h). Little-endian; texts and lists have their length before them; in
 * the order of struct request, choices last. A reader allocates nothing before the bytes that a
 * count promises are there, but for one thing: a choice gets room for max_tokens ids, which costs
 * its sender nothing to claim, so all choices together are bounded by ROOM_IDS_MAX. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "engine/request.h"

enum {
    ROOM_IDS_MAX = 64 << 20, /* ids that all choices of a record together may have room for */
    ROLE_RUN_BYTES = 5,
    BIAS_BYTES = 8,
    CHOICE_BYTES = 9, /* without its ids */
};

/* --- writing ---------------------------------------------------------------------------------- */

static void put_ids(struct wire_out *w, const uint32_t *ids, uint32_t n) {
    wire_put_u32(w, n);
    wire_put(w, ids, (size_t)n * sizeof *ids);
}
static void put_sampling(struct wire_out *w, const struct ops_sample_params *p) {
    wire_put_f32(w, p->temperature);
    wire_put_f32(w, p->top_p);
    wire_put_f32(w, p->min_p);
    wire_put_u32(w, p->top_k);
    wire_put_f32(w, p->repetition_penalty);
    wire_put_f32(w, p->frequency_penalty);
    wire_put_f32(w, p->presence_penalty);
    wire_put_u32(w, p->n_bias);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        wire_put_u32(w, p->bias[i].id);
        wire_put_f32(w, p->bias[i].bias);
    }
}

enum st request_write(struct buf *out, const struct request *r) {
    struct wire_out w = {out, ST_OK};
    size_t from = out->len;
    wire_put_u32(&w, r->version);
    wire_put_text(&w, r->id);
    wire_put_u32(&w, r->attempt);
    wire_put_text(&w, r->model_id);
    wire_put_text(&w, r->tenant);
    wire_put_text(&w, r->salt);
    put_ids(&w, r->prompt, r->n_prompt);
    wire_put_u32(&w, r->n_roles);
    for (uint32_t i = 0; i < r->n_roles; i++) {
        wire_put_u32(&w, r->roles[i].len);
        wire_put_u8(&w, (uint8_t)r->roles[i].role);
    }
    put_sampling(&w, &r->sampling);
    wire_put(&w, &r->seed, sizeof r->seed);
    put_ids(&w, r->stop_ids, r->n_stop_ids);
    wire_put_u32(&w, r->max_tokens);
    wire_put_u32(&w, r->min_tokens);
    wire_put_u32(&w, (uint32_t)r->logprobs);
    wire_put_u32(&w, (uint32_t)r->prompt_logprobs);
    wire_put_u32(&w, (uint32_t)r->priority);
    wire_put_u32(&w, r->time_left_ms);
    wire_put_u32(&w, r->n_choices);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct request_choice *c = &r->choices[i];
        put_ids(&w, c->ids, c->n_ids);
        wire_put_u32(&w, c->n_delivered);
        wire_put_u8(&w, (uint8_t)c->finish);
    }
    if (!w.st && out->len - from > REQUEST_BYTES_MAX) w.st = ST_FULL;
    if (w.st) out->len = from;
    return w.st;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    struct err *err;
    enum st st; /* the first failure; everything reads as 0 after it */
};

static void corrupt(struct reader *in, const char *what, uint64_t found, uint64_t most) {
    if (!in->st)
        in->st =
            err_set(in->err, ST_CORRUPT,
                    "request: %s: found %" PRIu64 ", expected at most %" PRIu64, what, found, most);
}

static size_t left(const struct reader *in) {
    return (size_t)(in->end - in->at);
}

static void get(struct reader *in, void *out, size_t len) {
    memset(out, 0, len);
    if (in->st) return;
    if (len > left(in)) {
        in->st = err_set(in->err, ST_CORRUPT, "request: cut off: %zu bytes are left, expected %zu",
                         left(in), len);
        return;
    }
    memcpy(out, in->at, len);
    in->at += len;
}
static uint8_t get_u8(struct reader *in) {
    uint8_t v;
    get(in, &v, sizeof v);
    return v;
}
static uint32_t get_u32(struct reader *in) {
    uint32_t v;
    get(in, &v, sizeof v);
    return v;
}
static uint32_t get_u32_up_to(struct reader *in, const char *what, uint32_t most) {
    uint32_t v = get_u32(in);
    if (v <= most) return v;
    corrupt(in, what, v, most);
    return 0;
}
static float get_f32(struct reader *in, const char *what) {
    float v;
    get(in, &v, sizeof v);
    if (isfinite(v)) return v;
    if (!in->st) in->st = err_set(in->err, ST_CORRUPT, "request: %s: not a finite number", what);
    return 0;
}

/* How many things of `each` bytes come next; no more than the bytes that are left. */
static uint32_t get_count(struct reader *in, const char *what, uint32_t most, size_t each) {
    uint32_t n = get_u32_up_to(in, what, most);
    if (in->st || n <= left(in) / each) return in->st ? 0 : n;
    corrupt(in, what, n, left(in) / each);
    return 0;
}

/* Room for n things, or NULL; n 0 has room too, so that NULL is a failure. */
static void *make_room(struct reader *in, size_t n, size_t each) {
    void *p = in->st ? NULL : malloc(n * each + 1);
    if (!p && !in->st)
        in->st = err_set(in->err, ST_NO_MEMORY, "request: out of memory for %zu bytes", n * each);
    return p;
}

static void get_text(struct reader *in, const char *what, char *out, size_t size) {
    uint8_t len = get_u8(in);
    if (len >= size) {
        corrupt(in, what, len, size - 1);
        len = 0;
    }
    get(in, out, len);
    out[len] = '\0';
    if (!in->st && strlen(out) != len) corrupt(in, what, 0, 0);
}

static void get_prompt(struct reader *in, struct request *r) {
    uint32_t n = get_count(in, "prompt tokens", UINT32_MAX, sizeof *r->prompt);
    r->prompt = make_room(in, n, sizeof *r->prompt);
    if (r->prompt) get(in, r->prompt, n * sizeof *r->prompt);
    r->n_prompt = n;
    uint32_t runs = get_count(in, "runs of roles", n, ROLE_RUN_BYTES), tokens = 0;
    r->roles = make_room(in, runs, sizeof *r->roles);
    for (; r->roles && r->n_roles < runs; r->n_roles++) {
        uint32_t len = get_u32_up_to(in, "tokens of a role", n - tokens);
        uint8_t role = get_u8(in);
        if (role > ROLE_GENERATED) corrupt(in, "role", role, ROLE_GENERATED);
        r->roles[r->n_roles] = (struct role_run){.len = len, .role = (enum token_role)role};
        tokens += len;
    }
    if (!in->st && tokens != n)
        in->st = err_set(in->err, ST_CORRUPT, "request: roles of %u tokens for a prompt of %u",
                         tokens, n);
}

static void get_sampling(struct reader *in, struct ops_sample_params *p) {
    p->temperature = get_f32(in, "temperature");
    p->top_p = get_f32(in, "top_p");
    p->min_p = get_f32(in, "min_p");
    p->top_k = get_u32(in);
    p->repetition_penalty = get_f32(in, "repetition_penalty");
    p->frequency_penalty = get_f32(in, "frequency_penalty");
    p->presence_penalty = get_f32(in, "presence_penalty");
    uint32_t n = get_count(in, "entries of logit_bias", UINT32_MAX, BIAS_BYTES);
    struct ops_logit_bias *bias = n ? make_room(in, n, sizeof *bias) : NULL;
    p->bias = bias;
    for (; bias && p->n_bias < n; p->n_bias++) {
        bias[p->n_bias].id = get_u32(in);
        bias[p->n_bias].bias = get_f32(in, "logit_bias");
    }
}

static int32_t get_logprobs(struct reader *in, const char *what) {
    uint32_t plus_one = get_u32(in) + 1; /* -1: none */
    if (plus_one <= REQUEST_LOGPROBS_MAX + 1) return (int32_t)plus_one - 1;
    corrupt(in, what, plus_one - 1, REQUEST_LOGPROBS_MAX);
    return -1;
}

static void get_choices(struct reader *in, struct request *r) {
    uint32_t n = get_count(in, "choices", REQUEST_CHOICES_MAX, CHOICE_BYTES);
    if (in->st) return;
    uint64_t room = (uint64_t)n * r->max_tokens;
    if (n == 0 || room > ROOM_IDS_MAX) {
        in->st = err_set(in->err, ST_CORRUPT,
                         "request: %u choices of %u tokens, expected at least one choice and at "
                         "most %d tokens of all together",
                         n, r->max_tokens, ROOM_IDS_MAX);
        return;
    }
    in->st = request_make_choices(r, n, in->err);
    for (uint32_t i = 0; i < n && !in->st; i++) {
        struct request_choice *c = &r->choices[i];
        uint32_t n_ids = get_count(in, "tokens of a choice", r->max_tokens, sizeof *c->ids);
        get(in, c->ids, n_ids * sizeof *c->ids);
        c->n_ids = n_ids;
        c->n_delivered = get_u32_up_to(in, "tokens delivered", n_ids);
        uint8_t finish = get_u8(in);
        if (finish > FINISH_CANCELLED) corrupt(in, "finish", finish, FINISH_CANCELLED);
        c->finish = (enum finish_reason)finish;
    }
}

static void get_record(struct reader *in, struct request *r) {
    r->version = get_u32(in);
    if (!in->st && r->version != REQUEST_VERSION)
        in->st = err_set(in->err, ST_CORRUPT, "request: version %u, expected %d", r->version,
                         REQUEST_VERSION);
    get_text(in, "bytes of its id", r->id, sizeof r->id);
    r->attempt = get_u32(in);
    get_text(in, "bytes of model_id", r->model_id, sizeof r->model_id);
    get_text(in, "bytes of the tenant", r->tenant, sizeof r->tenant);
    get_text(in, "bytes of the salt", r->salt, sizeof r->salt);
    get_prompt(in, r);
    get_sampling(in, &r->sampling);
    get(in, &r->seed, sizeof r->seed);
    r->n_stop_ids = get_count(in, "stop ids", REQUEST_STOP_IDS_MAX, sizeof *r->stop_ids);
    get(in, r->stop_ids, r->n_stop_ids * sizeof *r->stop_ids);
    r->max_tokens = get_u32_up_to(in, "max_tokens", ROOM_IDS_MAX);
    r->min_tokens = get_u32_up_to(in, "min_tokens", r->max_tokens);
    r->logprobs = get_logprobs(in, "logprobs");
    r->prompt_logprobs = get_logprobs(in, "prompt_logprobs");
    r->priority = (int32_t)get_u32(in);
    r->time_left_ms = get_u32(in);
    get_choices(in, r);
    if (left(in)) corrupt(in, "bytes after its end", left(in), 0);
}

enum st request_read(struct request *r, const void *data, size_t len, struct err *err) {
    struct reader in = {.at = data, .end = (const uint8_t *)data + len, .err = err};
    *r = (struct request){0};
    if (len > REQUEST_BYTES_MAX) corrupt(&in, "bytes", len, REQUEST_BYTES_MAX);
    if (!in.st) get_record(&in, r);
    if (in.st) request_release(r);
    return in.st;
}
