/* SPDX-License-Identifier: Apache-2.0 */
/* Implements flags.h. "--name value" and "--name=value"; "--" ends the flags; underscores are read
 * as dashes, since people come from tools that write either. */
#include "cli/flags.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/near.h"

enum { NAME_MAX_BYTES = 64 };

const char *flags_near(const struct flag_command *cmd, const char *name) {
    const char *near = NULL;
    uint32_t best = 4;
    for (const struct flag *f = cmd->flags; f->name; f++) {
        uint32_t d = near_distance(name, f->name);
        if (d < best) best = d, near = f->name;
    }
    return near;
}

static enum st unknown_flag(const struct flag_command *cmd, const char *name, struct err *err) {
    const char *near = flags_near(cmd, name);
    if (near)
        return err_set(err, ST_INVALID, "%s: unknown flag --%s; did you mean --%s?", cmd->name,
                       name, near);
    return err_set(err, ST_INVALID, "%s: unknown flag --%s; see supernode %s --help", cmd->name,
                   name, cmd->name);
}

static enum st set_number(const struct flag_command *cmd, const struct flag *f, const char *text,
                          struct err *err) {
    char *end;
    errno = 0;
    double v = f->type == FLAG_F32 ? strtod(text, &end) : 0;
    long long i = f->type == FLAG_F32 ? 0 : strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno == ERANGE)
        return err_set(err, ST_INVALID, "%s: --%s: found '%.60s', expected %s", cmd->name, f->name,
                       text, f->type == FLAG_F32 ? "a number" : "an integer");
    if (f->type == FLAG_I64) {
        *(struct flag_i64 *)f->out = (struct flag_i64){.given = true, .v = i};
        return ST_OK;
    }
    if (f->type == FLAG_U32) v = (double)i;
    if (!(v >= f->min && v <= f->max))
        return err_set(err, ST_INVALID, "%s: --%s: found %s, expected %.9g to %.9g", cmd->name,
                       f->name, text, f->min, f->max);
    if (f->type == FLAG_U32)
        *(uint32_t *)f->out = (uint32_t)i;
    else
        *(float *)f->out = (float)v;
    return ST_OK;
}

/* K, M, G and T are powers of 1024, with or without "iB" or "B". */
static enum st set_bytes(const struct flag_command *cmd, const struct flag *f, const char *text,
                         struct err *err) {
    static const char units[] = "KMGT";
    char *end;
    double v = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end >= 'a' ? *end - 32 : *end) : NULL;
    if (unit) {
        for (const char *u = units; u <= unit; u++) v *= 1024;
        end++;
        if (end[0] == 'i' && end[1] == 'B') end++;
    }
    if (*end == 'B') end++;
    if (end == text || *end || !(v >= 1 && v < 1e18))
        return err_set(err, ST_INVALID, "%s: --%s: found '%.60s', expected bytes, as in 512M or 8G",
                       cmd->name, f->name, text);
    *(uint64_t *)f->out = (uint64_t)v;
    return ST_OK;
}

static enum st set_choice(const struct flag_command *cmd, const struct flag *f, const char *text,
                          struct err *err) {
    size_t len = strlen(text);
    uint32_t i = 0;
    for (const char *word = f->value; word; i++) {
        size_t n = strcspn(word, "|");
        if (n == len && memcmp(word, text, n) == 0) {
            *(uint32_t *)f->out = i;
            return ST_OK;
        }
        word = word[n] ? word + n + 1 : NULL;
    }
    return err_set(err, ST_INVALID, "%s: --%s: found '%.60s', expected %s", cmd->name, f->name,
                   text, f->value);
}

enum st flags_set(const struct flag_command *cmd, const struct flag *f, const char *text,
                  struct err *err) {
    switch (f->type) {
    case FLAG_STR: *(const char **)f->out = text; return ST_OK;
    case FLAG_LIST: {
        struct flag_list *l = f->out;
        if (l->len == FLAG_LIST_MAX)
            return err_set(err, ST_INVALID, "%s: --%s: given more than %d times", cmd->name,
                           f->name, FLAG_LIST_MAX);
        l->v[l->len++] = text;
        return ST_OK;
    }
    case FLAG_CHOICE: return set_choice(cmd, f, text, err);
    case FLAG_BYTES: return set_bytes(cmd, f, text, err);
    case FLAG_U32:
    case FLAG_I64:
    case FLAG_F32: return set_number(cmd, f, text, err);
    case FLAG_BOOL: break;
    }
    assert(false);
    return ST_INVALID;
}

static void print_help(const struct flag_command *cmd, bool all) {
    printf("%s\n\nusage: %s\n", cmd->what, cmd->usage);
    uint32_t hidden = 0, shown = 0;
    for (const struct flag *f = cmd->flags; f->name; f++) {
        if (f->advanced && !all) {
            hidden++;
            continue;
        }
        if (shown++ == 0) printf("\n");
        char left[80];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->value ? " " : "",
                 f->value ? f->value : "");
        printf("  %-28s %s\n", left, f->help);
    }
    if (hidden) printf("  %-28s %u more flags\n", "--help all", hidden);
    printf("\nexample:\n  %s\n", cmd->example);
}

const struct flag *flags_find(const struct flag_command *cmd, const char *name) {
    for (const struct flag *f = cmd->flags; f->name; f++)
        if (strcmp(f->name, name) == 0) return f;
    return NULL;
}

bool flags_given(const struct flag_command *cmd, const char *name) {
    const struct flag *f = flags_find(cmd, name);
    assert(f && cmd->given);
    return cmd->given[f - cmd->flags];
}

static const struct flag *find_flag(const struct flag_command *cmd, const char *name, bool *off) {
    const struct flag *f = flags_find(cmd, name);
    *off = false;
    if (f || strncmp(name, "no-", 3) != 0) return f;
    f = flags_find(cmd, name + 3);
    *off = true;
    return f && f->type == FLAG_BOOL ? f : NULL;
}

void flags_name(char *out, size_t size, const char *text, size_t len) {
    if (len >= size) len = size - 1;
    for (size_t i = 0; i < len; i++) out[i] = text[i] == '_' ? '-' : text[i] ? text[i] : '?';
    out[len] = '\0';
}

/* One "--..." argument; *i moves on over its value. */
static enum st parse_flag(const struct flag_command *cmd, int argc, char **argv, int *i,
                          bool seen[FLAGS_MAX], struct err *err) {
    char name[NAME_MAX_BYTES];
    const char *arg = argv[*i] + 2, *eq = strchr(arg, '=');
    size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
    flags_name(name, sizeof name, arg, len);
    bool off;
    const struct flag *f = find_flag(cmd, name, &off);
    if (!f) return unknown_flag(cmd, name, err);
    if (cmd->given) cmd->given[f - cmd->flags] = true;
    if (f->type == FLAG_BOOL) {
        if (eq) return err_set(err, ST_INVALID, "%s: --%s takes no value", cmd->name, f->name);
        *(bool *)f->out = !off;
        return ST_OK;
    }
    if (!eq && *i + 1 >= argc)
        return err_set(err, ST_INVALID, "%s: --%s: expected %s after it", cmd->name, f->name,
                       f->value);
    bool *again = &seen[f - cmd->flags];
    if (f->type == FLAG_LIST && !*again) ((struct flag_list *)f->out)->len = 0; /* a config's */
    *again = true;
    return flags_set(cmd, f, eq ? eq + 1 : argv[++*i], err);
}

enum st flags_parse(enum flag_result *result, const struct flag_command *cmd, int argc, char **argv,
                    const char **args, struct err *err) {
    uint32_t n_args = 0, n_flags = 0;
    bool flags_end = false, seen[FLAGS_MAX] = {false};
    while (cmd->flags[n_flags].name) n_flags++;
    assert(n_flags <= FLAGS_MAX);
    for (uint32_t i = 0; i < cmd->args_max; i++) args[i] = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!flags_end && (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)) {
            print_help(cmd, i + 1 < argc && strcmp(argv[i + 1], "all") == 0);
            *result = FLAG_HELP_SHOWN;
            return ST_OK;
        }
        if (!flags_end && strcmp(a, "--") == 0) {
            flags_end = true;
        } else if (!flags_end && a[0] == '-' && a[1] == '-') {
            enum st st = parse_flag(cmd, argc, argv, &i, seen, err);
            if (st) return st;
        } else if (!flags_end && a[0] == '-' && a[1] != '\0') {
            return err_set(err, ST_INVALID, "%s: unknown flag %s; flags begin with --", cmd->name,
                           a);
        } else if (n_args == cmd->args_max) {
            return err_set(err, ST_INVALID, "%s: unexpected argument '%s'; usage: %s", cmd->name, a,
                           cmd->usage);
        } else {
            args[n_args++] = a;
        }
    }
    if (n_args < cmd->args_min)
        return err_set(err, ST_INVALID, "%s: %u argument%s missing; usage: %s", cmd->name,
                       cmd->args_min - n_args, cmd->args_min - n_args == 1 ? "" : "s", cmd->usage);
    *result = FLAG_RUN;
    return ST_OK;
}
