/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of supernode sim: each takes its own argv (argv[0] is its name) and returns an exit
 * code, as commands do (cli.h). */
#ifndef SUPERNODE_CLI_SIM_H
#define SUPERNODE_CLI_SIM_H

#include "cli/cli.h"

int cli_sim_cache(int argc, char **argv);
int cli_sim_load(int argc, char **argv);
int cli_sim_op(int argc, char **argv);
int cli_sim_paper(int argc, char **argv);
int cli_sim_run(int argc, char **argv);
int cli_sim_step(int argc, char **argv);

#endif
