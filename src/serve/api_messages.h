/* SPDX-License-Identifier: Apache-2.0 */
/* The messages and tools of a chat request, brought into the form chat templates know: content a
 * string (or null), tool call arguments an object, as vLLM and transformers hand them over. What a
 * message holds beside that goes through as it is. */
#ifndef SUPERNODE_SERVE_API_MESSAGES_H
#define SUPERNODE_SERVE_API_MESSAGES_H

#include <stdbool.h>

#include <jansson.h>

#include "serve/api_error.h"

/* Checks messages (NULL: missing) and rewrites them in place: text parts become one string, joined
 * by newlines as in vLLM; missing content becomes null. */
bool api_messages_check(json_t *messages, struct api_error *e);
bool api_tools_check(const json_t *tools, struct api_error *e);

/* The messages with function.arguments of their tool calls as objects where they were JSON text;
 * *changed says whether there were any. The caller json_decref()s it; NULL: out of memory.
 * Templates that paste arguments as text (DeepSeek-R1's) need the original. */
json_t *api_messages_with_argument_objects(json_t *messages, bool *changed);

#endif
