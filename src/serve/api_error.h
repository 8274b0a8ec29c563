/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's error object: {"error":{"message","type","param","code"}} and the HTTP status that goes
 * with it. */
#ifndef SUPERNODE_SERVE_API_ERROR_H
#define SUPERNODE_SERVE_API_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

struct api_error {
    int status;       /* HTTP; 0: no error */
    const char *code; /* a constant, e.g. "model_not_found"; NULL: null */
    uint32_t retry_s; /* Retry-After; 0: none. api_fail says 1 with 503 */
    char param[128];  /* the field at fault; "": null */
    char message[512];
};

/* Writes the error and returns false, so that a parser can `return api_fail(...)`. param and code
 * may be NULL. */
bool api_fail(struct api_error *e, int status, const char *param, const char *code, const char *fmt,
              ...) __attribute__((format(printf, 5, 6)));
/* A field of the wrong type, range or meaning: 400. */
#define api_invalid(e, param, ...) api_fail(e, 400, param, NULL, __VA_ARGS__)

/* The object as JSON, without a newline. ST_FULL, ST_NO_MEMORY. */
enum st ST_CHECKED api_error_write(struct buf *out, const struct api_error *e);

/* The reason phrase of the statuses we send. */
const char *api_reason(int status);

#endif
