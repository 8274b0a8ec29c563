/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench engine. */
#ifndef SUPERNODE_CLI_BENCH_ENGINE_H
#define SUPERNODE_CLI_BENCH_ENGINE_H

int cli_bench_engine(int argc, char **argv);

#endif
