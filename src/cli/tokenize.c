/* SPDX-License-Identifier: Apache-2.0 */
/* supernode tokenize: lines of text to lines of ids, and back. A folder with only the tokenizer's
 * files is enough. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "model/ckpt.h"
#include "text/tokenizer.h"

struct options {
    bool decode, special, bos;
};

static enum st encode(const struct tokenizer *t, const struct options *o, const char *line,
                      size_t len, struct err *err) {
    struct tok_ids ids = {0};
    enum st st =
        tok_encode(&ids, t, line, len, o->special ? TOK_ADDED_MATCH : TOK_ADDED_PLAIN, err);
    if (!st) {
        putchar('[');
        if (o->bos) printf(ids.len ? "%lld," : "%lld", (long long)tok_bos(t));
        for (size_t i = 0; i < ids.len; i++) printf(i ? ",%u" : "%u", ids.v[i]);
        puts("]");
    }
    tok_ids_release(&ids);
    return st;
}

static enum st decode(const struct tokenizer *t, const struct options *o, const char *line,
                      size_t len, const char *place, struct err *err) {
    json_t *list = NULL;
    struct buf text = {.max = SIZE_MAX / 2};
    struct tok_stream stream = {0};
    enum st st = json_parse(&list, line, len, place, err);
    if (!st && !json_is_array(list))
        st = err_set(err, ST_INVALID, "%s: found %s, expected an array of ids", place,
                     json_kind(list));
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v > UINT32_MAX)
            st = err_set(err, ST_INVALID, "%s: [%zu]: found %s, expected an id from 0 to %u", place,
                         i, json_is_integer(id) ? "another integer" : json_kind(id),
                         tok_vocab(t) - 1);
        else if (tok_stream_push(&stream, &text, t, (uint32_t)v,
                                 o->special ? TOK_SPECIAL_SHOW : TOK_SPECIAL_SKIP))
            st = err_set(err, ST_NO_MEMORY, "%s: out of memory", place);
    }
    if (!st && tok_stream_end(&stream, &text))
        st = err_set(err, ST_NO_MEMORY, "%s: out of memory", place);
    if (!st) {
        fwrite(text.data, 1, text.len, stdout);
        putchar('\n');
    }
    buf_release(&text);
    json_decref(list);
    return st;
}

static enum st run(const struct tokenizer *t, const struct options *o, FILE *in, const char *name,
                   struct err *err) {
    char *line = NULL;
    size_t cap = 0;
    enum st st = ST_OK;
    for (unsigned long n = 1; !st; n++) {
        errno = 0;
        ssize_t len = getline(&line, &cap, in);
        if (len < 0) {
            if (ferror(in) || errno)
                st = err_set(err, ST_IO, "%s: cannot read: %s", name, strerror(errno));
            break;
        }
        if (len > 0 && line[len - 1] == '\n') len--; /* and nothing else: \r is text */
        char place[512];
        snprintf(place, sizeof place, "%s: line %lu", name, n);
        st = o->decode ? decode(t, o, line, (size_t)len, place, err)
                       : encode(t, o, line, (size_t)len, err);
    }
    free(line);
    if (!st && (fflush(stdout) != 0 || ferror(stdout)))
        st = err_set(err, ST_IO, "standard output: cannot write: %s", strerror(errno));
    return st;
}

int cli_tokenize(int argc, char **argv) {
    struct options o = {0};
    const struct flag flags[] = {
        {.name = "decode", .type = FLAG_BOOL, .out = &o.decode, .help = "read ids, write text"},
        {.name = "special",
         .type = FLAG_BOOL,
         .out = &o.special,
         .help = "added tokens in the text count; with --decode, special ones are shown"},
        {.name = "bos",
         .type = FLAG_BOOL,
         .out = &o.bos,
         .help = "begin every line with the BOS token"},
        {.name = NULL},
    };
    const struct flag_command cmd = {
        .name = "tokenize",
        .what = "Writes the ids of each line as a JSON array.",
        .usage = "supernode tokenize MODEL [FILE] [flags]",
        .example = "echo 'Once upon a time' | supernode tokenize models/tiny",
        .flags = flags,
        .args_min = 1,
        .args_max = 2,
    };
    const char *args[2];
    enum flag_result result;
    struct err err;
    struct tokenizer *t = NULL;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    char path[CKPT_PATH_BYTES];
    enum st st = ckpt_resolve(path, args[0], &err);
    if (!st) st = tok_open(&t, path, &err);
    if (!st && o.bos && tok_bos(t) < 0)
        st = err_set(&err, ST_INVALID, "%s: --bos: this tokenizer has no BOS token", args[0]);
    FILE *in = !args[1] || strcmp(args[1], "-") == 0 ? stdin : NULL;
    if (!st && !in && !(in = fopen(args[1], "rbe")))
        st = err_set(&err, st_from_errno(errno), "%s: cannot open: %s", args[1], strerror(errno));
    if (!st) st = run(t, &o, in, args[1] ? args[1] : "standard input", &err);
    if (in && in != stdin) fclose(in);
    tok_free(t);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}
