/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_args.h. */
#include "cli/sim_args.h"

#include <stdio.h>
#include <string.h>

#include "sim/models.h"

enum st sim_args_open(struct sim_asked *out, const struct sim_args *a, struct err *err) {
    const double *peak = out->machine.peak;
    enum st st = machine_open(&out->machine, a->hardware ? a->hardware : "cloudmatrix384", err);
    if (!st) st = sim_model_open(&out->model, a->model ? a->model : "deepseek-r1", err);
    if (st) return st;
    if (a->weights)
        out->weights = (enum machine_type)(a->weights - 1);
    else if (peak[TYPE_FP8] > 0)
        out->weights = TYPE_FP8;
    else
        out->weights = peak[TYPE_INT8] > 0 ? TYPE_INT8 : TYPE_BF16;
    return ST_OK;
}

enum st sim_args_plane(const struct machine_plane **out, const struct machine *m, const char *name,
                       struct err *err) {
    char all[256] = "";
    *out = NULL;
    if (!name || !name[0]) return ST_OK;
    *out = machine_plane(m, name);
    if (*out) return ST_OK;
    for (uint32_t i = 0; i < m->n_planes; i++) {
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", m->planes[i].name);
    }
    return err_set(err, ST_NOT_FOUND, "--plane: found %.64s, expected one of %s's: %s", name,
                   m->name, all);
}
