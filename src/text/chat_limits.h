/* SPDX-License-Identifier: Apache-2.0 */
/* Rendering within other limits than chat.h's own: for tests and fuzzing. */
#ifndef SUPERNODE_TEXT_CHAT_LIMITS_H
#define SUPERNODE_TEXT_CHAT_LIMITS_H

#include "text/chat.h"

struct chat_limits {
    size_t memory_bytes;
    uint64_t steps;
};

enum st ST_CHECKED chat_template_render_within(struct chat_prompt *out,
                                               const struct chat_template *t, const json_t *context,
                                               int64_t now_s, const struct chat_limits *limits,
                                               struct err *err);

#endif
