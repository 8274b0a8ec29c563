/* SPDX-License-Identifier: Apache-2.0 */
/* supernode ctl: what an operator asks of a running cluster. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cluster_client.h"
#include "cli/cluster_find.h"
#include "cli/cluster_table.h"
#include "serve/cluster_json.h"

enum { ANSWER_MS = 5000, JSON_BYTES_MAX = 4 << 20 };

static enum st print_json(const struct cluster_view *v, struct err *err) {
    struct buf text = {.max = JSON_BYTES_MAX};
    struct json_out o = {&text, ST_OK};
    cluster_json_write(&o, v);
    if (!o.st) printf("%s\n", text.data);
    buf_release(&text);
    return o.st ? err_set(err, o.st, "ctl: out of memory") : ST_OK;
}

static enum st list(struct cluster_client *c, bool json, struct err *err) {
    struct cluster_view *v = malloc(sizeof *v);
    if (!v) return err_set(err, ST_NO_MEMORY, "ctl: out of memory");
    enum st st = cluster_client_view(c, v, ANSWER_MS, err);
    if (!st && json)
        st = print_json(v, err);
    else if (!st)
        cluster_table_members(stdout, v);
    free(v);
    return st;
}

/* What is asked, before anybody is: 0 arguments of a verb stand for "does not exist". */
enum verb { VERB_LIST, VERB_DRAIN, VERB_ROLE };

static enum st read_verb(enum verb *verb, const char **args, struct err *err) {
    static const char *const names[] = {"list", "drain", "role"};
    const char *expected = "expected list, drain NAME, role NAME prefill or role NAME decode";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(args[0], names[i]) != 0) continue;
        *verb = (enum verb)i;
        bool role_ok =
            args[2] && (strcmp(args[2], "prefill") == 0 || strcmp(args[2], "decode") == 0);
        if ((i == VERB_LIST && !args[1]) || (i == VERB_DRAIN && args[1] && !args[2]) ||
            (i == VERB_ROLE && role_ok))
            return ST_OK;
        if (i == VERB_ROLE && args[2])
            return err_set(err, ST_INVALID, "ctl: role: found '%.40s', expected prefill or decode",
                           args[2]);
        return err_set(err, ST_INVALID, "ctl: %s: %s", args[0], expected);
    }
    return err_set(err, ST_INVALID, "ctl: unknown '%.40s', %s", args[0], expected);
}

static int run(struct cluster_args *a, enum verb verb, const char **args, bool json,
               struct err *err) {
    struct cluster_client *c = NULL;
    char found[CLUSTER_DIR_BYTES];
    enum st st = a->dir_flag ? ST_OK : cluster_find(found, a->command, err);
    if (!st && !a->dir_flag) a->dir_flag = found;
    if (!st) st = cluster_open(a, err);
    if (!st) st = cluster_client_new(&c, a, err);
    if (!st) switch (verb) {
        case VERB_LIST: st = list(c, json, err); break;
        case VERB_DRAIN: st = cluster_client_drain(c, args[1], ANSWER_MS, err); break;
        case VERB_ROLE: {
            bool prefill = strcmp(args[2], "prefill") == 0;
            st = cluster_client_role(c, args[1], prefill ? ROLE_OF_PREFILL : ROLE_OF_DECODE,
                                     ANSWER_MS, err);
            break;
        }
        }
    cluster_client_free(c);
    cluster_close(a);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_ctl(int argc, char **argv) {
    struct cluster_args a;
    const char *args[3];
    bool json = false;
    const struct flag own[] = {
        {"json", NULL, FLAG_BOOL, &json, 0, 0, "list as JSON, as GET /cluster", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    struct flag flags[CLUSTER_FLAGS_MAX + sizeof own / sizeof *own];
    cluster_args_init(&a, "ctl");
    uint32_t n = cluster_args_flags(flags, &a);
    memcpy(flags + n, own, sizeof own);
    const struct flag_command cmd = {
        .name = "ctl",
        .what = "Lists a cluster's members, drains one, or changes a worker's role.",
        .usage = "supernode ctl list | drain NAME | role NAME prefill|decode [flags]",
        .example = "supernode ctl role p1 decode",
        .flags = flags,
        .args_min = 1,
        .args_max = 3,
    };
    struct err err;
    enum flag_result result;
    enum verb verb = VERB_LIST;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st) st = read_verb(&verb, args, &err);
    if (!st && json && verb != VERB_LIST)
        st = err_set(&err, ST_INVALID, "ctl: %s: --json is for list alone", args[0]);
    return st ? cli_fail(CLI_USAGE, &err) : run(&a, verb, args, json, &err);
}
