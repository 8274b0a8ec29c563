/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench handover. */
#ifndef SUPERNODE_CLI_BENCH_HANDOVER_H
#define SUPERNODE_CLI_BENCH_HANDOVER_H

int cli_bench_handover(int argc, char **argv);

#endif
