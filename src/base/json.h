/* SPDX-License-Identifier: Apache-2.0 */
/* JSON from strangers, by jansson: a file or text with limits on size and depth, and typed reads of
 * members whose errors say file, member, what was found and what was expected. Paths are dotted
 * ("rope_scaling.factor"). */
#ifndef SUPERNODE_BASE_JSON_H
#define SUPERNODE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"

/* Parses text; name (a path, "request body") stands in the error. Duplicate members are refused,
 * and a text that would take more than 256 MiB of memory ("{}," is three bytes of text and 200 of
 * memory): ST_FULL. The caller json_decref()s *out. An integer over 64 bits is read as a real number. */
enum st ST_CHECKED json_parse(json_t **out, const char *text, size_t len, const char *name,
                              struct err *err);
/* The same for a file of at most max bytes; "-" is standard input. */
enum st ST_CHECKED json_read_file(json_t **out, const char *path, size_t max, struct err *err);

/* The member at a dotted path, or NULL when it or one above it is missing; JSON null counts as
 * missing. */
json_t *json_at(const json_t *obj, const char *path);
const char *json_kind(const json_t *v); /* "an object", "a string", "nothing", ... */

/* Typed members of obj. Missing: *out becomes fallback. Wrong type or range: ST_INVALID,
 * "name: path: found ..., expected ...". Integers given as 4.0 are accepted as 4. */
enum st ST_CHECKED json_get_u32(uint32_t *out, const json_t *obj, const char *path, uint32_t min,
                                uint32_t max, uint32_t fallback, const char *name, struct err *err);
enum st ST_CHECKED json_get_f64(double *out, const json_t *obj, const char *path, double min,
                                double max, double fallback, const char *name, struct err *err);
enum st ST_CHECKED json_get_bool(bool *out, const json_t *obj, const char *path, bool fallback,
                                 const char *name, struct err *err);
/* *out is borrowed from obj; fallback may be NULL. */
enum st ST_CHECKED json_get_str(const char **out, const json_t *obj, const char *path,
                                const char *fallback, const char *name, struct err *err);

#endif
