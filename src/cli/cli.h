/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the one binary. Each takes its own argv (argv[0] is the command's name) and
 * returns an exit code: 0 done, 1 it failed and said why on stderr, 2 the command line was wrong.
 */
#ifndef SUPERNODE_CLI_CLI_H
#define SUPERNODE_CLI_CLI_H

#include "base/err.h"

int cli_tokenize(int argc, char **argv);
int cli_template(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_logits(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_score(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_router(int argc, char **argv);
int cli_prefill(int argc, char **argv);
int cli_decode(int argc, char **argv);
int cli_pool(int argc, char **argv);
int cli_up(int argc, char **argv);
int cli_ctl(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_chat(int argc, char **argv);
int cli_sim(int argc, char **argv);

/* Prints "supernode: sentence" and returns the exit code: 2 if the command line was wrong (usage),
 * else 1. */
enum cli_fault { CLI_FAILED = 1, CLI_USAGE = 2 };
int cli_fail(enum cli_fault fault, const struct err *err);

#endif
