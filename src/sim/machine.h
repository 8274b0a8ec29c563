/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster's hardware as a file describes it (hardware/NAME.yaml): chips, nodes, the planes of its
 * network, racks and power, and the constants of the operators on this chip. Nothing about a machine
 * stands in the code. Each figure of a file has its source beside it; an estimate says so.
 *
 * The unit of computing is the die: what has its own memory and is one rank. A 910C package is two, a
 * Hopper GPU is one. All rates are of one die and one way, in units of one (bytes/s, operations/s,
 * seconds); the files use the units in their keys' names. */
#ifndef SUPERNODE_SIM_MACHINE_H
#define SUPERNODE_SIM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum machine_type { TYPE_BF16, TYPE_INT8, TYPE_FP8, TYPE_FP4, MACHINE_TYPES };
extern const char *const machine_type_names[MACHINE_TYPES + 1]; /* "bf16", ..., NULL */

enum { MACHINE_NAME_MAX = 64, MACHINE_PLANES_MAX = 8, MACHINE_OPERATORS_MAX = 32 };

/* What a transfer is: who moves the bytes, and where the other end lies. */
enum machine_transfer {
    TRANSFER_READ,      /* a die reads another die's memory */
    TRANSFER_WRITE,     /* writes it */
    TRANSFER_READ_CPU,  /* reads a CPU's memory */
    TRANSFER_WRITE_CPU, /* writes it */
    MACHINE_TRANSFERS
};
extern const char *const machine_transfer_names[MACHINE_TRANSFERS + 1];

/* How a path behaves for one flow alone on it. time = (start^4 + (bytes/rate)^4)^(1/4), since the start
 * overlaps the wire (docs/simulator.md). start is the path's latency for a bare operation; a library's
 * start-up (library_start_s) takes its place where it is longer: it was measured with the latency in it. */
struct machine_path {
    double rate_bps;  /* reached by one die, long transfers; 0: there is none */
    double latency_s; /* of the bare operation, smallest size */
};

/* One network: scale-up (UB, NVLink), scale-out (RDMA), the nodes' own (VPC). */
struct machine_plane {
    char name[MACHINE_NAME_MAX];
    double die_bps, cpu_bps, node_bps; /* link of a die, a CPU socket, a whole node; 0: not on it */
    uint32_t sub_planes;               /* independent parts that a link is spread over; 1: none */
    uint32_t domain_nodes;             /* nodes it connects; 0: all of the machine */
    double uplink_bps;                 /* of a node to the rest, all sub-planes together */
    struct machine_path same_node[MACHINE_TRANSFERS], other_node[MACHINE_TRANSFERS];
    double library_start_s; /* of the communication library that is used on it */
};

struct machine_operator {        /* at most two constants, inside the bounds the operator states */
    char name[MACHINE_NAME_MAX]; /* as in operators.h */
    double fixed_s, share;
};

struct machine {
    char name[MACHINE_NAME_MAX];
    /* a die */
    uint32_t cube_cores, vector_cores; /* SMs of a GPU count as both */
    double peak[MACHINE_TYPES];        /* dense operations/s; 0: it cannot */
    double hbm_bytes, hbm_bps;
    /* what it is built of */
    uint32_t dies_per_chip, chips_per_node, cpus_per_node, n_nodes, nodes_per_rack;
    double node_dram_bytes;
    double node_ssd_bps, node_ssd_s;  /* what a node's block storage reaches; 0: not known */
    double chip_w, node_w, machine_w; /* power; 0: not known */
    uint32_t n_planes;
    struct machine_plane planes[MACHINE_PLANES_MAX]; /* [0]: scale-up */
    uint32_t n_operators;
    struct machine_operator operators[MACHINE_OPERATORS_MAX];
    double launch_s, step_s; /* of a graph from the CPU; of everything else once a step */
    bool graphs_ahead;       /* launches are hidden behind the step before */
};

/* name: of an embedded description ("cloudmatrix384"), or the path of a file (has a '/' or ends in
 * .yaml). */
enum st ST_CHECKED machine_open(struct machine *m, const char *name, struct err *err);
bool machine_is_path(const char *name);
enum st ST_CHECKED machine_read(struct machine *m, const void *bytes, size_t len, const char *name,
                                struct err *err);
/* Embedded descriptions by name, NULL at the end. */
const char *const *machine_names(void);

static inline uint32_t machine_dies_per_node(const struct machine *m) {
    return m->dies_per_chip * m->chips_per_node;
}
const struct machine_plane *machine_plane(const struct machine *m, const char *name); /* or NULL */
/* The plane behind the scale-up one, which is returned where it is all there is. */
static inline const struct machine_plane *machine_scale_out(const struct machine *m) {
    return &m->planes[m->n_planes > 1];
}
/* What weights are where nobody says: fp8, else int8, else bf16, as the chip computes with. */
enum machine_type machine_weights(const struct machine *m);
/* Never NULL: an operator that the file does not list has the defaults of operators.h. */
const struct machine_operator *machine_operator(const struct machine *m, const char *name);

#endif
