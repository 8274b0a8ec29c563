/* SPDX-License-Identifier: Apache-2.0 */
/* One safetensors file, mapped: an 8-byte length, a JSON header, then the tensors' bytes (format of
 * the `safetensors` library). As there, the tensors must cover the data exactly: no overlap, no
 * hole, nothing behind the last. */
#ifndef SUPERNODE_MODEL_SAFETENSORS_H
#define SUPERNODE_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"

enum { SAFETENSORS_DIMS_MAX = 8 };

struct safetensors_tensor {
    char *name;     /* owned by the file */
    char dtype[16]; /* "BF16", "F8_E4M3", ... as written */
    uint32_t n_dims;
    uint64_t dims[SAFETENSORS_DIMS_MAX];
    const uint8_t *data; /* into the mapping */
    uint64_t bytes;
};

struct safetensors {
    struct file_map map;
    uint64_t header_bytes;              /* 8 + length of the JSON */
    struct safetensors_tensor *tensors; /* in order of their data */
    size_t n_tensors;
};

enum st ST_CHECKED safetensors_open(struct safetensors *out, const char *path, struct err *err);
void safetensors_close(struct safetensors *s);

/* The header alone, for fuzzing: data of `size` bytes, borrowed; s->map stays empty. */
enum st ST_CHECKED safetensors_parse(struct safetensors *s, const uint8_t *data, uint64_t size,
                                     const char *name, struct err *err);

/* Writes F32 matrices [rows, cols]; for `supernode logits` and tests. */
struct safetensors_out {
    const char *name;
    const float *data;
    uint64_t rows, cols;
};
enum st ST_CHECKED safetensors_write(const char *path, const struct safetensors_out *tensors,
                                     size_t n, struct err *err);

#endif
