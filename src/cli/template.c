/* SPDX-License-Identifier: Apache-2.0 */
/* supernode template: a conversation as JSON on stdin, the prompt that the checkpoint's own
 * template makes of it on stdout, byte for byte and with no newline added. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "model/ckpt.h"
#include "text/chat_load.h"
#include "text/prompt.h"

enum { REQUEST_BYTES_MAX = 64 << 20 };

static bool is_template_file(const char *model) {
    size_t len = strlen(model);
    return len > 6 && strcmp(model + len - 6, ".jinja") == 0;
}

/* The ids that the server would run, as supernode tokenize writes them. */
static enum st ids_as_json(struct buf *out, const struct chat_prompt *prompt, const char *folder,
                           struct err *err) {
    struct tokenizer *tok = NULL;
    struct prompt_ids ids = {0};
    enum st st = tok_open(&tok, folder, err);
    if (!st) st = prompt_encode(&ids, tok, prompt, PROMPT_TRUST_NONE, err);
    for (size_t i = 0; i <= ids.ids.len && !st; i++) {
        char text[16];
        if (i < ids.ids.len)
            snprintf(text, sizeof text, "%c%u", i ? ',' : '[', ids.ids.v[i]);
        else
            snprintf(text, sizeof text, i ? "]\n" : "[]\n");
        st = buf_append_str(out, text);
        if (st) err_set(err, st, "%s: out of memory", folder);
    }
    prompt_ids_release(&ids);
    tok_free(tok);
    return st;
}

/* One letter per byte: t template, a assistant, o other. */
static void origins_as_letters(struct buf *origin) {
    for (size_t i = 0; i < origin->len; i++)
        origin->data[i] = "tao"[(unsigned char)origin->data[i]];
}

int cli_template(int argc, char **argv) {
    bool origins = false, ids = false;
    const struct flag flags[] = {
        {.name = "origins",
         .type = FLAG_BOOL,
         .out = &origins,
         .advanced = true,
         .help = "write where each byte comes from instead: t template, a assistant, o other"},
        {.name = "ids",
         .type = FLAG_BOOL,
         .out = &ids,
         .advanced = true,
         .help = "write the token ids of the prompt instead, as a JSON array"},
        {.name = NULL},
    };
    const struct flag_command cmd = {
        .name = "template",
        .what = "Writes the prompt that the model's chat template makes of a conversation.",
        .usage = "supernode template MODEL [FILE]   (MODEL: a checkpoint, or a .jinja file; JSON "
                 "from FILE or stdin)",
        .example = "echo '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}' | supernode "
                   "template models/tiny",
        .flags = flags,
        .args_min = 1,
        .args_max = 2,
    };
    const char *args[2];
    enum flag_result result;
    struct err err;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    char folder[CKPT_PATH_BYTES];
    struct chat_model *m = NULL;
    json_t *request = NULL;
    struct chat_prompt prompt = {0};
    struct buf list = {.max = SIZE_MAX / 2};
    enum st st = is_template_file(args[0]) ? ST_OK : ckpt_resolve(folder, args[0], &err);
    if (!st) st = chat_model_open(&m, is_template_file(args[0]) ? args[0] : folder, &err);
    if (!st) st = json_read_file(&request, args[1] ? args[1] : "-", REQUEST_BYTES_MAX, &err);
    if (!st) st = chat_model_render(&prompt, m, request, (int64_t)time(NULL), &err);
    if (!st && origins) origins_as_letters(&prompt.origin);
    if (!st && ids)
        st = ids_as_json(&list, &prompt, is_template_file(args[0]) ? args[0] : folder, &err);
    const struct buf *out = ids ? &list : origins ? &prompt.origin : &prompt.text;
    if (!st && (fwrite(out->data, 1, out->len, stdout) != out->len || fflush(stdout) != 0))
        st = err_set(&err, ST_IO, "standard output: cannot write: %s", strerror(errno));
    buf_release(&list);
    chat_prompt_release(&prompt);
    json_decref(request);
    chat_model_free(m);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}
