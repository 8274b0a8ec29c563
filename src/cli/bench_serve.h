/* SPDX-License-Identifier: Apache-2.0 */
/* `supernode bench serve`: load on any OpenAI-compatible server, flags as in `vllm bench serve`.
 * argv[0] is "serve"; returns an exit code as cli.h has it. */
#ifndef SUPERNODE_CLI_BENCH_SERVE_H
#define SUPERNODE_CLI_BENCH_SERVE_H

int cli_bench_serve(int argc, char **argv);

#endif
