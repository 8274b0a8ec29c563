/* SPDX-License-Identifier: Apache-2.0 */
/* Prometheus' text format: for every family # HELP, # TYPE, then its samples. */
#ifndef SUPERNODE_SERVE_METRICS_TEXT_H
#define SUPERNODE_SERVE_METRICS_TEXT_H

#include "engine/stats.h"
#include "serve/json_out.h"

#define METRICS_PREFIX "supernode_"

/* type: "counter", "gauge" or "histogram". */
void metrics_family(struct json_out *o, const char *name, const char *type, const char *help);
/* name="value", escaped as Prometheus does: backslash, quote, newline. */
void metrics_label(struct json_out *o, const char *name, const char *value);
void metrics_value(struct json_out *o, double v); /* and the end of the line */
/* One sample with up to two labels: model_name if model, and name if name is not NULL. */
void metrics_sample(struct json_out *o, const char *metric, const char *suffix, const char *model,
                    const char *name, const char *text, double v);
/* Buckets are cumulative and end with +Inf. */
void metrics_histogram(struct json_out *o, const char *name, const char *model,
                       const struct histogram *h, const char *help);

#endif
