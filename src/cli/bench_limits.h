/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench limits. */
#ifndef SUPERNODE_CLI_BENCH_LIMITS_H
#define SUPERNODE_CLI_BENCH_LIMITS_H

int cli_bench_limits(int argc, char **argv);

#endif
