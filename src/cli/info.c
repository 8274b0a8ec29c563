/* SPDX-License-Identifier: Apache-2.0 */
/* supernode info: what a checkpoint is, how large, who it is, and which kernels would run it. Loads
 * no weights. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/human.h"
#include "cli/model_args.h"
#include "cli/progress.h"
#include "engine/instance.h"

struct facts {
    struct ckpt *ckpt;
    struct ckpt_stats stats;
    enum ops_dtype kv;
    uint64_t kv_bytes_token; /* all layers, hidden state of MTP included */
    char weights_id[CKPT_ID_BYTES], model_id[CKPT_ID_BYTES];
    const char *how;
    const struct ops_kernels *kernels;
};

static void print_architecture(const struct facts *f) {
    const struct model_config *c = ckpt_config(f->ckpt);
    uint32_t dense = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) dense += !config_layer_is_moe(c, i);
    printf("architecture   %s   %u layers (%u dense)", ckpt_facts(f->ckpt)->architecture,
           c->n_layers, dense);
    if (c->n_experts) {
        printf(", %u experts top %u", c->n_experts, c->gate.top_k);
        if (c->gate.group != OPS_GATE_GROUP_NONE)
            printf(" in %u of %u groups", c->gate.topk_groups, c->gate.n_groups);
        if (c->n_shared) printf(" + %u shared", c->n_shared);
    }
    printf(", MLA %u+%u, %s\n", c->kv_lora, c->rope, c->n_mtp ? "MTP" : "no MTP");
    printf("shape          hidden %u, %u heads of %u+%u (values %u), %s%u, vocabulary %u, context "
           "%u%s\n",
           c->hidden, c->n_heads, c->nope, c->rope, c->v_dim, c->q_lora ? "q_lora " : "q direct ",
           c->q_lora ? c->q_lora : c->n_heads * (c->nope + c->rope), c->vocab, c->max_positions,
           c->rotary.yarn ? " by YaRN" : "");
}

static void print_text(const struct facts *f) {
    char a[32], b[32], m[32], bytes[32], kv[32];
    const struct ckpt_stats *s = &f->stats;
    print_architecture(f);
    printf("parameters     %s, %s active", human_count(a, sizeof a, (double)s->params),
           human_count(b, sizeof b, (double)s->params_active));
    if (s->params_mtp) printf(", %s of MTP", human_count(m, sizeof m, (double)s->params_mtp));
    printf("    %s    %s in %u shard%s\n", s->dtype,
           human_bytes(bytes, sizeof bytes, (double)s->bytes), s->n_shards,
           s->n_shards == 1 ? "" : "s");
    printf("KV             %s a token (%s)\n",
           human_bytes(kv, sizeof kv, (double)f->kv_bytes_token), kv_dtype_name(f->kv));
    printf("identity       weights %.4s..%s (%s)   model %.4s..%s\n", f->weights_id,
           f->weights_id + 62, f->how, f->model_id, f->model_id + 62);
    const struct ops_kernels *all[OPS_TABLES_MAX];
    uint32_t n = ops_kernels_all(all);
    printf("kernels        %s, profile %s   (SUPERNODE_ISA=", f->kernels->isa, instance_profile);
    for (uint32_t i = n; i-- > 0;) printf("%s%s", all[i]->isa, i ? "|" : ")\n");
}

static void print_json(const struct facts *f) {
    const struct model_config *c = ckpt_config(f->ckpt);
    json_t *o = json_pack(
        "{s:s,s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:I,s:s,s:I,s:i,s:I,s:s,s:s,s:s,s:s,s:s}", "architecture",
        ckpt_facts(f->ckpt)->architecture, "layers", (int)c->n_layers, "experts", (int)c->n_experts,
        "top_k", (int)c->gate.top_k, "mtp_layers", (int)c->n_mtp, "max_position_embeddings",
        (int)c->max_positions, "parameters", (json_int_t)f->stats.params, "parameters_active",
        (json_int_t)f->stats.params_active, "parameters_mtp", (json_int_t)f->stats.params_mtp,
        "dtype", f->stats.dtype, "bytes", (json_int_t)f->stats.bytes, "shards",
        (int)f->stats.n_shards, "kv_bytes_per_token", (json_int_t)f->kv_bytes_token, "kv_dtype",
        kv_dtype_name(f->kv), "weights_id", f->weights_id, "weights_id_from", f->how, "model_id",
        f->model_id, "kernels", f->kernels->isa);
    json_dumpf(o, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(o);
}

static enum st gather(struct facts *f, const char *model, enum kv_choice kv, struct err *err) {
    char path[CKPT_PATH_BYTES];
    enum st st = ckpt_resolve(path, model, err);
    if (!st) st = ckpt_open(&f->ckpt, path, err);
    if (!st) st = ops_kernels_select(&f->kernels, getenv("SUPERNODE_ISA"), err);
    if (!st) st = ckpt_weights_id(f->ckpt, f->weights_id, &f->how, err);
    if (st) return st;
    ckpt_stats(f->ckpt, &f->stats);
    f->kv = instance_kv_dtype(kv, f->ckpt);
    f->kv_bytes_token = kv_page_bytes_all(ckpt_config(f->ckpt), f->kv) / KV_PAGE_TOKENS;
    return instance_model_id(f->model_id, f->weights_id, f->kv, err);
}

static void show_progress(void *ctx, uint64_t done, uint64_t all) {
    char note[32];
    progress_show(ctx, done, all, human_bytes(note, sizeof note, (double)done));
}

static enum st write_sha256(const char *model, struct err *err) {
    char path[CKPT_PATH_BYTES];
    struct ckpt *c = NULL;
    struct progress bar;
    enum st st = ckpt_resolve(path, model, err);
    if (!st) st = ckpt_open(&c, path, err);
    progress_begin(&bar, "sha256");
    if (!st) st = ckpt_write_sha256(c, show_progress, &bar, err);
    progress_end(&bar);
    ckpt_close(c);
    return st;
}

int cli_info(int argc, char **argv) {
    const char *args[1];
    struct model_args model = {0};
    bool json = false, sha256 = false;
    const struct flag flags[] = {
        {"json", NULL, FLAG_BOOL, &json, 0, 0, "the same as a JSON object, identities in full",
         false},
        KV_DTYPE_FLAG(&model.kv),
        {"write-sha256", NULL, FLAG_BOOL, &sha256, 0, 0,
         "read all weights and leave their digest in supernode.sha256, for the identity", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "info",
        .what = "Says what a checkpoint is: architecture, size, identity, and the kernels that "
                "would run it.",
        .usage = "supernode info [MODEL] [flags]",
        .example = "supernode info models/tiny",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    struct instance_options o;
    struct facts f = {0};
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    if (model_args_options(&o, &model, args[0], &err)) return cli_fail(CLI_FAILED, &err);
    enum st st = sha256 ? write_sha256(o.model, &err) : ST_OK;
    if (!st) st = gather(&f, o.model, o.kv, &err);
    if (!st && json)
        print_json(&f);
    else if (!st)
        print_text(&f);
    ckpt_close(f.ckpt);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}
