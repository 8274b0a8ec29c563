/* SPDX-License-Identifier: Apache-2.0 */
/* One server in virtual time: the engine that serves for real (engine.h), alone, on an executor whose
 * steps take what a calibration says (calibration.h), behind a front that takes requests in one after
 * the other. What it predicts is `supernode serve` on the machine that was measured. */
#ifndef SUPERNODE_SIM_SOLO_H
#define SUPERNODE_SIM_SOLO_H

#include "sim/calibration.h"
#include "sim/run.h"

struct solo;

/* c's load, seed and SLOs; all borrowed. replay: NULL, or times of steps and chunks that are taken in
 * their order in place of the calibration's, until they are used up. */
enum st ST_CHECKED solo_new(struct solo **out, const struct run_config *c,
                            const struct calibration *k, const struct record_file *replay,
                            struct err *err);
void solo_free(struct solo *s); /* NULL is allowed */
/* Goes on until about that virtual time; false: it is over. */
bool solo_until(struct solo *s, double virtual_s);
double solo_stuck_s(const struct solo *s); /* as run_stuck_s, and as long at most */
uint64_t solo_finished(const struct solo *s);
/* Of a cluster's figures those that one server has; the rest is 0. events: pieces of work. */
enum st ST_CHECKED solo_report(struct solo *s, struct run_report *out, struct err *err);

#endif
