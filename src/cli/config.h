/* SPDX-License-Identifier: Apache-2.0 */
/* A config file: YAML whose keys are the command's flags without their dashes, each with a scalar or
 * a list of scalars; `model` stands for the command's argument. Nothing else of YAML is taken:
 * no nesting, no aliases, one document. The command line wins: read the file into the flags' places,
 * then parse the command line again. */
#ifndef SUPERNODE_CLI_CONFIG_H
#define SUPERNODE_CLI_CONFIG_H

#include "cli/flags.h"

/* Texts the flags point into; zero-initialise, release when the flags are not needed any more. */
struct config {
    uint32_t len;
    char **texts;
};

/* Sets the flags that the file names; lists are replaced. *model is set if the file has one. Errors
 * say file, line and key: "serve.yaml: line 3: unknown key prot; did you mean port?" */
enum st ST_CHECKED config_read(struct config *c, const struct flag_command *cmd, const char *path,
                               const char **model, struct err *err);
void config_release(struct config *c);

/* A command line with the file that it names: *path is where the flag for it goes. Everything as
 * flags_parse; args[0] is the file's model where the command line has none. c is released by the
 * caller in any case. */
enum st ST_CHECKED config_parse(struct config *c, enum flag_result *result,
                                const struct flag_command *cmd, int argc, char **argv,
                                const char **args, const char *const *path, struct err *err);

#endif
