/* SPDX-License-Identifier: Apache-2.0 */
/* Command-line flags as one table a command: it parses, and makes --help. A wrong flag names the
 * near one. */
#ifndef SUPERNODE_CLI_FLAGS_H
#define SUPERNODE_CLI_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum flag_type {
    FLAG_BOOL,   /* bool: --x sets it, --no-x clears it */
    FLAG_STR,    /* const char * */
    FLAG_U32,    /* uint32_t, min..max */
    FLAG_BYTES,  /* uint64_t: 8G, 512M, 1.5GiB */
    FLAG_I64,    /* struct flag_i64: whether it was given, and the value */
    FLAG_F32,    /* float, min..max */
    FLAG_LIST,   /* struct flag_list: may be given several times */
    FLAG_CHOICE, /* uint32_t: index of one of the words in value, "auto|f32|bf16" */
};

enum { FLAG_LIST_MAX = 64, FLAGS_MAX = 64 /* of a command */ };
struct flag_list {
    uint32_t len;
    const char *v[FLAG_LIST_MAX];
};
struct flag_i64 {
    bool given;
    int64_t v;
};

struct flag {
    const char *name;  /* without the dashes */
    const char *value; /* how --help names the value, e.g. "N"; NULL for FLAG_BOOL */
    enum flag_type type;
    void *out;        /* holds the default before parsing */
    double min, max;  /* FLAG_U32, FLAG_F32 */
    const char *help; /* what, unit, default, range: one line */
    bool advanced;    /* only in --help all */
};

struct flag_command {
    const char *name;            /* "serve" */
    const char *what;            /* one line */
    const char *usage;           /* "supernode serve [MODEL] [flags]" */
    const char *example;         /* a command line that works */
    const struct flag *flags;    /* ends with a NULL name */
    uint32_t args_min, args_max; /* positional arguments */
    bool *given;                 /* FLAGS_MAX of them, false: set for flags in argv; may be NULL */
};

enum flag_result { FLAG_RUN, FLAG_HELP_SHOWN };

/* Parses argv[1..] (argv[0] is the command). Positional arguments go to args[cmd->args_max],
 * missing ones NULL. --help and
 * --help all print to stdout. Errors: "serve: unknown flag --prot; did you mean --port?" */
enum st ST_CHECKED flags_parse(enum flag_result *result, const struct flag_command *cmd, int argc,
                               char **argv, const char **args, struct err *err);

/* Whether argv had the flag; cmd->given was filled in by flags_parse. */
bool flags_given(const struct flag_command *cmd, const char *name);

/* What a config file does with the same table. */
/* text as a flag's name: underscores become dashes, cut to size. */
void flags_name(char *out, size_t size, const char *text, size_t len);
const struct flag *flags_find(const struct flag_command *cmd, const char *name); /* NULL: none */
const char *flags_near(const struct flag_command *cmd, const char *name); /* NULL: none is near */
/* Any type but FLAG_BOOL; text is borrowed. A list grows. "serve: --port: found ..." */
enum st ST_CHECKED flags_set(const struct flag_command *cmd, const struct flag *f, const char *text,
                             struct err *err);

#endif
