/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_args.h. */
#include "cli/sim_args.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "sim/models.h"

int sim_args_main(const struct flag_command *cmd, int argc, char **argv, sim_args_run *run,
                  void *a) {
    const char *args[1] = {NULL};
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    enum st st = run(a, args[0], &err);
    if (st) return cli_fail(st == ST_INVALID || st == ST_NOT_FOUND ? CLI_USAGE : CLI_FAILED, &err);
    return 0;
}

const char *sim_args_model(const struct sim_args *a) {
    return a->model ? a->model : "deepseek-r1";
}

double sim_args_written(float v) {
    return round((double)v * 1e6) / 1e6;
}

enum st sim_args_open(struct sim_asked *out, const struct sim_args *a, struct err *err) {
    enum st st = machine_open(&out->machine, a->hardware ? a->hardware : "cloudmatrix384", err);
    if (!st) st = sim_model_open(&out->model, sim_args_model(a), err);
    if (st) return st;
    out->weights =
        a->weights ? (enum machine_type)(a->weights - 1) : machine_weights(&out->machine);
    return ST_OK;
}

void sim_args_print_type(const struct sim_asked *s) {
    enum machine_type in = op_type_computed(&s->machine, s->weights);
    if (in == s->weights) return;
    printf("%s has no units of %s: weights lie in it and are computed in %s\n", s->machine.name,
           machine_type_names[s->weights], machine_type_names[in]);
}

void sim_args_print_lines(json_t *list) {
    printf("\n");
    for (size_t i = 0; i < json_array_size(list); i++)
        printf("%s\n", json_string_value(json_array_get(list, i)));
    json_decref(list);
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
