/* SPDX-License-Identifier: Apache-2.0 */
/* What `serve` and `router` have in common: the flags of an HTTP server before a model, and the
 * lines that say where it is. */
#ifndef SUPERNODE_CLI_FRONT_ARGS_H
#define SUPERNODE_CLI_FRONT_ARGS_H

#include "cli/flags.h"
#include "serve/front.h"
#include "serve/server.h"

enum { ORIGINS_MAX = 256, FRONT_FLAGS_MAX = 20 };

struct front_args {
    const char *command; /* in errors */
    const char *host, *served_name;
    uint32_t port, request_timeout_s;
    bool trust_message_tokens;
    struct server_options server;
    struct log log;
    uint32_t log_format;
    struct auth auth;
    struct flag_list keys, origins;
    char *origin_list[ORIGINS_MAX]; /* origins, lists taken apart; owned */
    uint32_t n_origins;
    const char *key_file, *config;
};

void front_args_init(struct front_args *a, const char *command); /* the defaults */
/* Appends the flags; returns how many. */
uint32_t front_args_flags(struct flag out[FRONT_FLAGS_MAX], struct front_args *a);
/* Flags become a->server; API keys are wiped from the command line. */
enum st ST_CHECKED front_args_finish(struct front_args *a, struct err *err);
void front_args_release(struct front_args *a);

void front_print_model(const struct ckpt *c, const char *model);
/* "serving ..." with the port that was bound, and something to try. */
void front_print_serving(const struct front_args *a, uint16_t port, bool chat, uint64_t begun_ns);

#endif
