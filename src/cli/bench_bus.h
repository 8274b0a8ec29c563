/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench bus. */
#ifndef SUPERNODE_CLI_BENCH_BUS_H
#define SUPERNODE_CLI_BENCH_BUS_H

int cli_bench_bus(int argc, char **argv);

#endif
