/* SPDX-License-Identifier: Apache-2.0 */
/* Log-probabilities of one token as items of an answer's lists; answer.c's own. All fail as
 * answer_token does. */
#ifndef SUPERNODE_SERVE_ANSWER_LOGPROBS_H
#define SUPERNODE_SERVE_ANSWER_LOGPROBS_H

#include "serve/answer.h"

enum st ST_CHECKED answer_chat_logprobs(struct answer *a, struct buf *lists,
                                        const struct token_out *t);
/* *offset moves on by the token's characters. known false: the first token of an echoed prompt,
 * which nothing came before. */
enum st ST_CHECKED answer_completion_logprobs(struct answer *a, struct buf *lists, uint32_t *offset,
                                              const struct token_out *t, bool known);
/* The prompt's token first, then the likeliest. Its rank is known where it is one of them. */
enum st ST_CHECKED answer_prompt_logprobs(struct answer *a, struct buf *list,
                                          const struct token_out *t);

#endif
