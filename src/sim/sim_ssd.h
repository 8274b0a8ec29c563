/* SPDX-License-Identifier: Apache-2.0 */
/* An SSD in virtual time, for pool servers of a simulated cluster: records lie in memory, without the
 * zeros of a small page, and an operation is over when a block of the real size is through at the
 * device's rate, first come first served, and its latency has passed. It outlives its server, as a
 * disk does; what was under way at that moment is lost. */
#ifndef SUPERNODE_SIM_SIM_SSD_H
#define SUPERNODE_SIM_SIM_SSD_H

#include "pool/ssd_impl.h"
#include "sim/core/sim_bus.h"

struct sim_ssd_options {
    const struct sim_net *net; /* whose time it is; borrowed */
    struct block_shape shape;
    uint32_t n_recs;
    double block_bytes; /* that one stands for */
    double rate_bps, latency_s;
};

struct sim_ssd_stats {
    double read_bytes, write_bytes, busy_s;
};

extern const struct ssd_io_ops sim_ssd_ops; /* over what sim_ssd_new made; closing keeps it */

enum st ST_CHECKED sim_ssd_new(struct ssd_io **out, const struct sim_ssd_options *o,
                               struct err *err);
void sim_ssd_free(struct ssd_io *io);            /* NULL is allowed */
uint32_t sim_ssd_had(const struct ssd_io *io);   /* records that may hold something */
uint64_t sim_ssd_bytes(const struct ssd_io *io); /* as ssd_options wants them */
const struct sim_ssd_stats *sim_ssd_stats(const struct ssd_io *io);

#endif
