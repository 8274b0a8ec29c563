/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the reading of a run's description: run_config.c (the whole; who takes part), run_config_load.c
 * (what comes, what breaks). */
#ifndef SUPERNODE_SIM_RUN_CONFIG_IMPL_H
#define SUPERNODE_SIM_RUN_CONFIG_IMPL_H

#include "base/doc.h"
#include "sim/run.h"

enum { RUN_TOKENS_MAX = 1 << 20 };

struct run_in { /* what is being read */
    struct run_config *c;
    const char *name; /* of the file */
    struct err *err;
};

/* Numbers in the file's units; where the key is missing *out stays. */
enum st ST_CHECKED run_in_number(struct run_in *in, const struct doc_node *at, const char *key,
                                 double min, double max, double unit, double *out);
enum st ST_CHECKED run_in_count(struct run_in *in, const struct doc_node *at, const char *key,
                                uint64_t min, uint64_t max, uint32_t *out);
/* The mapping of that key with these keys; one that is missing is an empty one. */
enum st ST_CHECKED run_in_mapping(struct run_in *in, const struct doc_node *at, const char *key,
                                  const char *const *keys, const struct doc_node **out);
/* place: who names it, for what is found wrong when it is opened. */
enum st ST_CHECKED run_in_path(struct run_in *in, const struct doc_node *map, const char *key,
                               char *out, size_t size, char place[sizeof in->err->text]);

enum st ST_CHECKED run_in_load(struct run_in *in, const struct doc_node *root);
enum st ST_CHECKED run_in_faults(struct run_in *in, const struct doc_node *root);
enum st ST_CHECKED run_in_slo(struct run_in *in, const struct doc_node *root);

#endif
