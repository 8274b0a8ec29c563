/* SPDX-License-Identifier: Apache-2.0 */
/* Implements prompt.h: the origin of each byte becomes the mask in which added tokens may be
 * recognised, and then the roles. */
#include "text/prompt.h"

#include <stdlib.h>
#include <string.h>

enum st prompt_encode(struct prompt_ids *out, const struct tokenizer *tok,
                      const struct chat_prompt *prompt, enum prompt_trust trust, struct err *err) {
    size_t len = prompt->text.len;
    const uint8_t *origin = (const uint8_t *)prompt->origin.data;
    *out = (struct prompt_ids){0};
    uint8_t *allow = malloc(len + 1);
    if (!allow) return err_set(err, ST_NO_MEMORY, "prompt: out of memory");
    for (size_t i = 0; i < len; i++)
        allow[i] = trust == PROMPT_TRUST_MESSAGES || origin[i] != CHAT_FROM_OTHER;
    enum st st = tok_encode_masked(&out->ids, tok, len ? prompt->text.data : "", len, allow, err);
    free(allow);
    if (!st) {
        out->generated = malloc(out->ids.len + 1);
        if (!out->generated) st = err_set(err, ST_NO_MEMORY, "prompt: out of memory");
    }
    for (size_t i = 0; i < out->ids.len && !st; i++)
        out->generated[i] = origin[out->ids.byte[i]] == CHAT_FROM_ASSISTANT;
    if (st) prompt_ids_release(out);
    return st;
}

void prompt_ids_release(struct prompt_ids *p) {
    tok_ids_release(&p->ids);
    free(p->generated);
    *p = (struct prompt_ids){0};
}
