/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SUPERNODE_CLI_BENCH_CALIBRATE_H
#define SUPERNODE_CLI_BENCH_CALIBRATE_H

/* supernode bench calibrate; argv[0] is "calibrate". Returns the exit code. */
int cli_bench_calibrate(int argc, char **argv);

#endif
