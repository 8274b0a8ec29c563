/* SPDX-License-Identifier: Apache-2.0 */
/* Implements local.h. */
#include "engine/local.h"

enum st local_open_model(struct local *l, const struct instance_options *i,
                         const struct engine_options *o, struct err *err) {
    *l = (struct local){0};
    struct exec_model_options x = {.max_num_seqs = o->max_num_seqs,
                                   .max_num_batched_tokens = o->max_num_batched_tokens,
                                   .draft_tokens =
                                       o->speculate == SPECULATE_OFF ? 0 : o->draft_tokens};
    struct instance_options with = *i;
    exec_model_workspaces(with.workspaces, &x);
    enum st st = instance_open(&l->in, &with, err);
    if (st) return st;
    if (!l->in.config.n_mtp) x.draft_tokens = 0;
    st = exec_model_new(&l->exec, &l->in, &x, err);
    if (st) local_close(l);
    return st;
}

enum st local_open(struct local *l, const struct instance_options *i,
                   const struct engine_options *o, struct err *err) {
    enum st st = local_open_model(l, i, o, err);
    if (st) return st;
    st = engine_new(&l->engine, exec_model_executor(l->exec), o, err);
    if (st) local_close(l);
    return st;
}

void local_close(struct local *l) {
    engine_free(l->engine);
    exec_model_free(l->exec);
    if (l->in.ckpt) instance_close(&l->in);
    *l = (struct local){0};
}
