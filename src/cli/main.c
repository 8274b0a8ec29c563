/* SPDX-License-Identifier: Apache-2.0 */
/* supernode: one binary, a table of commands. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

struct command {
    const char *name, *what;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
    {"serve", "the OpenAI-compatible server, all in one", cli_serve},
    {"up", "a whole cluster on this machine", cli_up},
    {"router", "the front of a cluster", cli_router},
    {"prefill", "a worker that computes prompts", cli_prefill},
    {"decode", "a worker that generates", cli_decode},
    {"pool", "a server of the memory pool", cli_pool},
    {"ctl", "list a cluster's members, drain one, change a role", cli_ctl},
    {"chat", "talk with a model on a server, in the terminal", cli_chat},
    {"generate", "continue a prompt", cli_generate},
    {"info", "what a checkpoint is: architecture, size, identity, kernels", cli_info},
    {"logits", "logits of every position of a token sequence", cli_logits},
    {"template", "a conversation to the prompt the model's template makes of it", cli_template},
    {"tokenize", "text to token ids, and back", cli_tokenize},
    {"score", "perplexity of a text", cli_score},
    {"bench", "measurements beside the limits of this machine", cli_bench},
    {"sim", "a supernode in simulation: operators, steps, published tables, whole clusters",
     cli_sim},
    {NULL, NULL, NULL},
};

int cli_fail(enum cli_fault fault, const struct err *err) {
    fprintf(stderr, "supernode: %s\n", err->text);
    return (int)fault;
}

static void print_commands(FILE *f) {
    fprintf(
        f,
        "supernode %s serves DeepSeek-V3-class models.\n\nusage: supernode COMMAND [arguments]\n\n",
        SUPERNODE_VERSION);
    for (const struct command *c = commands; c->name; c++)
        fprintf(f, "  %-10s %s\n", c->name, c->what);
    fprintf(f, "\nsupernode COMMAND --help says more.\n");
}

/* A full disk or a closed pipe behind stdout is a failure, whatever the command thought. */
static int end(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "supernode: stdout: cannot write: %s\n", strerror(errno));
    return CLI_FAILED;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_commands(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_commands(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0) {
        printf("supernode %s\n", SUPERNODE_VERSION);
        return 0;
    }
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return end(c->run(argc - 1, argv + 1));
    fprintf(stderr, "supernode: unknown command '%s'; supernode --help lists them\n", name);
    return CLI_USAGE;
}
