/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim: a supernode that nobody here owns. A table of subcommands. */
#include "cli/sim.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *what;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "a load on a whole cluster in virtual time, with the control code that serves for real",
     cli_sim_run},
    {"op", "one operator, transfer or collective on one die", cli_sim_op},
    {"step", "one decode step or prefill batch, by operator and layer", cli_sim_step},
    {"paper", "the published tables beside what the model says", cli_sim_paper},
    {"cache", "what a context cache does to a prompt batch, by reuse and plane", cli_sim_cache},
    {"load", "how long a model's weights take to load, and a switch of models", cli_sim_load},
    {NULL, NULL, NULL},
};

int cli_sim(int argc, char **argv) {
    for (int i = 0; argc >= 2 && commands[i].name; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    FILE *to = help ? stdout : stderr;
    if (argc >= 2 && !help) fprintf(to, "supernode: sim: unknown command %s\n", argv[1]);
    fprintf(to, "usage: supernode sim COMMAND [arguments]\n\n");
    for (int i = 0; commands[i].name; i++)
        fprintf(to, "  %-6s %s\n", commands[i].name, commands[i].what);
    fprintf(to, "\nsupernode sim COMMAND --help says more.\n");
    return help ? 0 : CLI_USAGE;
}
