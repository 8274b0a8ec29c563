/* SPDX-License-Identifier: Apache-2.0 */
/* Implements engine_args.h. */
#include "cli/engine_args.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "cli/human.h"

void engine_args_init(struct engine_args *a) {
    *a = (struct engine_args){
        .engine = {.max_num_seqs = 256, .max_num_batched_tokens = 1024, .draft_tokens = 1}};
}

uint32_t engine_args_flags(struct flag out[ENGINE_FLAGS_MAX], struct engine_args *a) {
    const struct flag flags[] = {
        {"max-model-len", "N", FLAG_U32, &a->max_model_len, 1, 1 << 24,
         "longest prompt and answer together, tokens (default: max_position_embeddings)", false},
        {"max-num-seqs", "N", FLAG_U32, &a->engine.max_num_seqs, 1, 65536,
         "sequences computed at once; others wait (default 256)", false},
        {"kv-cache-memory", "BYTES", FLAG_BYTES, &a->kv_bytes, 0, 0,
         "for the KV cache, e.g. 8G (default: most of what is free beside the weights)", false},
        {"tpot-ms", "MS", FLAG_U32, &a->engine.tpot_ms, 0, 1000000,
         "target time per output token: the batch grows and shrinks to meet it (default 0: none)",
         false},
        {"ttft-ms", "MS", FLAG_U32, &a->engine.ttft_ms, 0, 100000000,
         "target time to the first token: prompts that wait longer than half of it get a larger "
         "share (default 0: none)",
         true},
        {"max-num-batched-tokens", "N", FLAG_U32, &a->engine.max_num_batched_tokens,
         EXECUTOR_CHUNK_MIN, 65536, "tokens of a prompt chunk (default 1024, at least 512)", true},
        SPECULATE_FLAGS(a->speculate, a->engine.draft_tokens),
        MODEL_ARGS_FLAGS(a->model),
    };
    static_assert(sizeof flags / sizeof *flags <= ENGINE_FLAGS_MAX, "room for all");
    memcpy(out, flags, sizeof flags);
    return sizeof flags / sizeof *flags;
}

enum st engine_args_finish(struct instance_options *o, struct engine_args *a, const char *model,
                           struct err *err) {
    enum st st = model_args_options(o, &a->model, model, err);
    o->kv_bytes = a->kv_bytes;
    o->kv_seqs = a->engine.max_num_seqs;
    o->max_model_len = a->max_model_len;
    a->engine.speculate = (enum speculate)a->speculate;
    return st;
}

void engine_print(const struct engine_args *a, const struct local *l) {
    char bytes[32];
    const struct kv *kv = &l->in.kv;
    uint32_t n_pages = exec_model_executor(l->exec)->n_pages;
    double page = (double)kv_page_bytes_all(&l->in.config, kv->dtype);
    printf(
        "memory     %s for KV: %.0f tokens at %.1f KB each; %u sequences, %u tokens the longest\n",
        human_bytes(bytes, sizeof bytes, page * n_pages), (double)n_pages * KV_PAGE_TOKENS,
        page / KV_PAGE_TOKENS / 1e3, a->engine.max_num_seqs, l->in.max_model_len);
    uint32_t threads = team_size(l->in.team);
    printf("kernels    %s  (%u thread%s, profile %s)\n", l->in.kernels->isa, threads,
           threads == 1 ? "" : "s", instance_profile);
}
