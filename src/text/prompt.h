/* SPDX-License-Identifier: Apache-2.0 */
/* A rendered chat prompt becomes ids and roles (contracts 6): added tokens are recognised only in
 * what the template or an assistant message wrote; a token has the role of its first byte,
 * "generated" where an assistant message wrote it. */
#ifndef SUPERNODE_TEXT_PROMPT_H
#define SUPERNODE_TEXT_PROMPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct prompt_ids {
    struct tok_ids ids;
    uint8_t *generated; /* [ids.len] 1: the token is an assistant message's */
};

enum prompt_trust {
    PROMPT_TRUST_NONE,
    PROMPT_TRUST_MESSAGES /* --trust-message-tokens: added tokens count everywhere */
};

enum st ST_CHECKED prompt_encode(struct prompt_ids *out, const struct tokenizer *tok,
                                 const struct chat_prompt *prompt, enum prompt_trust trust,
                                 struct err *err);
void prompt_ids_release(struct prompt_ids *p);

#endif
