/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer: the input is a record as a peer might send it. It is refused with a sentence, or what
 * was read is what a record may be, and is written as the same bytes again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check_choices(const struct request *r) {
    require(r->n_choices >= 1 && r->n_choices <= REQUEST_CHOICES_MAX);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct request_choice *c = &r->choices[i];
        require(c->n_ids <= r->max_tokens && c->n_delivered <= c->n_ids);
        if (r->max_tokens) c->ids[r->max_tokens - 1] += 0; /* the room is there */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct request r;
    struct err err = {0};
    if (request_read(&r, data, size, &err)) {
        require(err.code != ST_OK && err.text[0] && !r.prompt && !r.choices);
        return 0;
    }
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < r.n_roles; i++) tokens += r.roles[i].len;
    require(tokens == r.n_prompt && r.n_stop_ids <= REQUEST_STOP_IDS_MAX);
    require(memchr(r.tenant, 0, sizeof r.tenant) && memchr(r.salt, 0, sizeof r.salt));
    check_choices(&r);
    struct buf again = {.max = REQUEST_BYTES_MAX};
    require(request_write(&again, &r) == ST_OK);
    require(again.len == size && memcmp(again.data, data, size) == 0);
    buf_release(&again);
    request_release(&r);
    return 0;
}
