/* SPDX-License-Identifier: Apache-2.0 */
/* Implements metrics_text.h. */
#include "serve/metrics_text.h"

#include <math.h>
#include <stdio.h>

void metrics_family(struct json_out *o, const char *name, const char *type, const char *help) {
    json_out_raw(o, "# HELP ");
    json_out_raw(o, name);
    json_out_raw(o, " ");
    json_out_raw(o, help);
    json_out_raw(o, "\n# TYPE ");
    json_out_raw(o, name);
    json_out_raw(o, " ");
    json_out_raw(o, type);
    json_out_raw(o, "\n");
}

void metrics_label(struct json_out *o, const char *name, const char *value) {
    json_out_raw(o, name);
    json_out_raw(o, "=\"");
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            json_out_raw(o, "\\n");
        else if (*c == '\\' || *c == '"')
            json_out_bytes(o, (char[]){'\\', *c}, 2);
        else
            json_out_bytes(o, c, 1);
    }
    json_out_raw(o, "\"");
}

void metrics_value(struct json_out *o, double v) {
    char text[40];
    if (v == rint(v) && fabs(v) < 9e15)
        snprintf(text, sizeof text, " %lld\n", (long long)v);
    else
        snprintf(text, sizeof text, " %.9g\n", v);
    json_out_raw(o, text);
}

void metrics_sample(struct json_out *o, const char *metric, const char *suffix, const char *model,
                    const char *name, const char *text, double v) {
    json_out_raw(o, metric);
    json_out_raw(o, suffix);
    if (model || name) json_out_raw(o, "{");
    if (model) metrics_label(o, "model_name", model);
    if (model && name) json_out_raw(o, ",");
    if (name) metrics_label(o, name, text);
    if (model || name) json_out_raw(o, "}");
    metrics_value(o, v);
}

void metrics_histogram(struct json_out *o, const char *name, const char *model,
                       const struct histogram *h, const char *help) {
    uint64_t below = 0;
    char bound[32];
    metrics_family(o, name, "histogram", help);
    for (uint32_t i = 0; i < h->n; i++) {
        below += h->counts[i];
        snprintf(bound, sizeof bound, "%.9g", h->bounds[i]);
        metrics_sample(o, name, "_bucket", model, "le", bound, (double)below);
    }
    metrics_sample(o, name, "_bucket", model, "le", "+Inf", (double)h->count);
    metrics_sample(o, name, "_sum", model, NULL, NULL, h->sum);
    metrics_sample(o, name, "_count", model, NULL, NULL, (double)h->count);
}
