/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint's chat template and its token strings, found in the folder as transformers finds
 * them, and the step from a request to a prompt. */
#ifndef SUPERNODE_TEXT_CHAT_LOAD_H
#define SUPERNODE_TEXT_CHAT_LOAD_H

#include "text/chat.h"

struct chat_model;

/* path: a folder, or a .jinja file by itself (no token strings then, but the request may bring
 * them). In a folder chat_template.jinja (and additional_chat_templates/tool_use.jinja) goes before
 * chat_template of tokenizer_config.json, which is a string or a list of {name, template} with
 * "default" and maybe "tool_use". ST_NOT_FOUND when there is no template. */
enum st ST_CHECKED chat_model_open(struct chat_model **out, const char *path, struct err *err);
void chat_model_free(struct chat_model *m); /* NULL is allowed */

/* Renders a request: an object with messages, maybe tools (which select "tool_use" where there is
 * one), add_generation_prompt (default true), continue_final_message (the prompt ends with the last
 * message's content, open), chat_template_kwargs (an object of variables), and any other member, which is a variable too. A checkpoint's token strings cannot be replaced.
 * Read-only: any thread. Otherwise as chat_template_render. */
enum st ST_CHECKED chat_model_render(struct chat_prompt *out, const struct chat_model *m,
                                     const json_t *request, int64_t now_s, struct err *err);

#endif
