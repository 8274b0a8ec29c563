/* SPDX-License-Identifier: Apache-2.0 */
/* Implements request.h. */
#include "engine/request.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>

struct role_cursor request_roles_at(const struct request *r, uint32_t pos) {
    struct role_cursor c = {.r = r};
    while (c.run < r->n_roles && pos >= r->roles[c.run].len) pos -= r->roles[c.run++].len;
    if (c.run < r->n_roles) c.left = r->roles[c.run].len - pos;
    return c;
}

enum token_role role_cursor_next(struct role_cursor *c) {
    if (c->run == c->r->n_roles) return ROLE_GENERATED;
    enum token_role role = c->r->roles[c->run].role;
    c->left--;
    while (c->left == 0 && ++c->run < c->r->n_roles) c->left = c->r->roles[c->run].len;
    return role;
}

bool request_draw_seed(struct request *r) {
    uint64_t drawn;
    if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) return false;
    r->seed = (int64_t)(drawn >> 11);
    return true;
}

enum st request_make_choices(struct request *r, uint32_t n, struct err *err) {
    assert(n >= 1 && n <= REQUEST_CHOICES_MAX && !r->choices);
    r->choices = calloc(n, sizeof *r->choices);
    for (uint32_t i = 0; i < n && r->choices; i++) {
        r->n_choices = i + 1;
        r->choices[i].ids = malloc((r->max_tokens + (size_t)1) * sizeof *r->choices[i].ids);
        if (!r->choices[i].ids) break;
    }
    if (!r->choices || !r->choices[n - 1].ids)
        return err_set(err, ST_NO_MEMORY, "request: out of memory for %u choices", n);
    return ST_OK;
}

enum st request_check_length(const struct request *r, uint32_t max_model_len, struct err *err) {
    if (r->n_prompt == 0)
        return err_set(err, ST_INVALID, "prompt: empty, expected at least one token");
    if (r->n_prompt > max_model_len || r->max_tokens > max_model_len - r->n_prompt)
        return err_set(err, ST_INVALID,
                       "max_tokens: %u with a prompt of %u tokens exceeds max-model-len %u",
                       r->max_tokens, r->n_prompt, max_model_len);
    return ST_OK;
}

void request_release(struct request *r) {
    free(r->prompt);
    free(r->roles);
    for (uint32_t i = 0; i < r->n_choices; i++) free(r->choices[i].ids);
    free(r->choices);
    free((void *)(uintptr_t)r->sampling.bias);
    *r = (struct request){0};
}
