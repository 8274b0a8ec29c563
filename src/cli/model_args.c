/* SPDX-License-Identifier: Apache-2.0 */
/* Implements model_args.h. The default model lies beside the binary: ../models/tiny of a build
 * folder, or
 * ../share/supernode/models/tiny of an installation. */
#include "cli/model_args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum st find_default(char path[CKPT_PATH_BYTES], struct err *err) {
    static const char *const places[] = {"/../models/tiny", "/../../models/tiny",
                                         "/../share/supernode/models/tiny"};
    char exe[CKPT_PATH_BYTES / 2];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash = NULL;
    if (n > 0) {
        exe[n] = '\0';
        slash = strrchr(exe, '/');
    }
    for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
        *slash = '\0';
        snprintf(path, CKPT_PATH_BYTES, "%s%s", exe, places[i]);
        char config[CKPT_PATH_BYTES + 16];
        snprintf(config, sizeof config, "%s/config.json", path);
        if (access(config, R_OK) == 0) return ST_OK;
    }
    return err_set(err, ST_NOT_FOUND,
                   "the embedded default model is not beside this binary; name a MODEL");
}

enum st model_args_options(struct instance_options *o, struct model_args *a, const char *model,
                           struct err *err) {
    *o = (struct instance_options){
        .model = model, .threads = a->threads, .kv = (enum kv_choice)a->kv};
    if (model) return ST_OK;
    o->model = a->default_model;
    return find_default(a->default_model, err);
}

enum st ids_parse(uint32_t **out, uint32_t *n, const char *text, struct err *err) {
    size_t count = 1;
    for (const char *c = text; *c; c++) count += *c == ',';
    uint32_t *ids = malloc(count * sizeof *ids);
    if (!ids) return err_set(err, ST_NO_MEMORY, "--ids: out of memory");
    const char *at = text;
    for (size_t i = 0; i < count; i++) {
        char *end;
        errno = 0;
        unsigned long v = strtoul(at, &end, 10);
        if (end == at || *at == '-' || errno != 0 || v > UINT32_MAX ||
            *end != (i + 1 < count ? ',' : '\0')) {
            free(ids);
            return err_set(
                err, ST_INVALID,
                "--ids: entry %zu: found '%.20s', expected token ids separated by commas", i + 1,
                at);
        }
        ids[i] = (uint32_t)v;
        at = end + 1;
    }
    *out = ids;
    *n = (uint32_t)count;
    return ST_OK;
}

enum st ids_check(const uint32_t *ids, uint32_t n, uint32_t vocab, struct err *err) {
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= vocab)
            return err_set(err, ST_INVALID, "--ids: entry %u: id %u, but the vocabulary has %u",
                           i + 1, ids[i], vocab);
    return ST_OK;
}
