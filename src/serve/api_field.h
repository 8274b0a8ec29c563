/* SPDX-License-Identifier: Apache-2.0 */
/* Typed reads of request fields whose failures are API errors: "temperature: found a string,
 * expected a number". A missing field and null leave *out as it is. */
#ifndef SUPERNODE_SERVE_API_FIELD_H
#define SUPERNODE_SERVE_API_FIELD_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "serve/api_error.h"

json_t *api_field(const json_t *obj, const char *name); /* NULL when missing or null */
bool api_field_bool(bool *out, const json_t *obj, const char *name, struct api_error *e);
/* Integers may be written 4.0. */
bool api_field_int(int64_t *out, const json_t *obj, const char *name, int64_t min, int64_t max,
                   struct api_error *e);
bool api_field_u32(uint32_t *out, const json_t *obj, const char *name, uint32_t min, uint32_t max,
                   struct api_error *e);
bool api_field_float(float *out, const json_t *obj, const char *name, double min, double max,
                     struct api_error *e);

/* v as an integer of min..max; where names it in the error. */
bool api_value_int(int64_t *out, const json_t *v, const char *where, int64_t min, int64_t max,
                   struct api_error *e);

#endif
