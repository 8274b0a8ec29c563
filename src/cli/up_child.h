/* SPDX-License-Identifier: Apache-2.0 */
/* The processes that `up` looks after: direct children, each with the command line that a user would
 * type, its own process group (Ctrl-C is ours to hand on) and its log. None survives us, however we
 * end. */
#ifndef SUPERNODE_CLI_UP_CHILD_H
#define SUPERNODE_CLI_UP_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "cluster/cluster.h"

enum { CHILD_ARGS_MAX = 48, CHILD_TEXT_BYTES = 4096, CHILD_LINE_BYTES = 400 };

struct child {
    char name[BUS_NAME_BYTES];
    char *argv[CHILD_ARGS_MAX + 1]; /* argv[0]: supernode; into text */
    uint32_t argc;
    char text[CHILD_TEXT_BYTES];
    uint32_t text_len;
    bool full; /* an argument found no room */
    char log[CHILD_TEXT_BYTES];
    pid_t pid;        /* 0: does not run */
    bool seen, ended; /* seen: in the cluster, once; ended: for good */
    uint32_t failures;
    uint64_t started_ns, restart_at_ns; /* restart 0: not to be */
};

/* Arguments: child_arg adds one. */
void child_init(struct child *c, const char *name, const char *dir);
void child_arg(struct child *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Another value for a flag it has. */
void child_set(struct child *c, const char *flag, const char *value);
/* The command line, words quoted where a shell needs it. */
void child_print(const struct child *c);

/* exe: what to run. Its log begins anew at the first start, and goes on at others. */
enum st ST_CHECKED child_start(struct child *c, const char *exe, uint64_t now_ns, struct err *err);
void child_signal(const struct child *c, int signal_number); /* nothing where it does not run */

/* The last line of its log that says something; "" if there is none. */
void child_last_line(const struct child *c, char out[CHILD_LINE_BYTES]);
/* What follows `word` on the last line that begins with it, up to white space; false: none. */
bool child_said(const struct child *c, const char *word, char *out, size_t size);

#endif
