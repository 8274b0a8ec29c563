/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: the checkpoint's own Jinja template turns messages into a prompt, byte for byte
 * as transformers.apply_chat_template does. Every byte of the result carries its origin (contracts
 * 6), so that a user who writes
 * "<|Assistant|>" gets text and not a turn. A template is a stranger's program: steps, depth and
 * output are bounded. */
#ifndef SUPERNODE_TEXT_CHAT_H
#define SUPERNODE_TEXT_CHAT_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/bytes.h"
#include "base/err.h"

struct chat_template;

/* The tokens that transformers hands to a template
 * (PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES): bos_token and six more. */
enum { CHAT_TOKENS = 7 };
extern const char *const chat_token_names[CHAT_TOKENS];

/* source: the Jinja text; name stands in errors ("chat_template.jinja: line 3: ..."). Unknown
 * statements, filters and tests are refused here, with construct and line, where they can be seen
 * without running. */
enum st ST_CHECKED chat_template_new(struct chat_template **out, const char *source, size_t len,
                                     const char *name, struct err *err);
void chat_template_free(struct chat_template *t); /* NULL is allowed */

/* Where a byte of the prompt came from. Bytes that a template computed from several (upper-casing,
 * tojson) keep the origin of the value they were made from; whatever cannot be attributed counts as
 * CHAT_FROM_OTHER. */
enum chat_origin {
    CHAT_FROM_TEMPLATE,  /* literal text and constants of the template, and the names of roles */
    CHAT_FROM_ASSISTANT, /* an assistant message's own strings */
    CHAT_FROM_OTHER,     /* user, system, tool messages, tools, keyword arguments: plain text */
};

struct chat_prompt {
    struct buf text;   /* the rendered prompt, UTF-8 */
    struct buf origin; /* one enum chat_origin byte per byte of text */
};

/* Renders with the variables of `context` (an object: messages, tools, add_generation_prompt,
 * bos_token, eos_token, and whatever chat_template_kwargs holds). now_s is what strftime_now sees.
 * out is appended to from empty; release it with chat_prompt_release, also after an error.
 * raise_exception(...) of a template is ST_INVALID with its text; limits are ST_FULL. */
enum st ST_CHECKED chat_template_render(struct chat_prompt *out, const struct chat_template *t,
                                        const json_t *context, int64_t now_s, struct err *err);
void chat_prompt_release(struct chat_prompt *p);

#endif
