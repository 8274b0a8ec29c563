/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: refused with a sentence, or accepted with tensors that cover the
 * data exactly. The header length is also bent to what the input has, so that the JSON behind it is
 * reached. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const uint8_t *file, size_t size) {
    struct safetensors s;
    struct err err = {.text = ""};
    enum st st = safetensors_parse(&s, file, size, "f", &err);
    if (st) {
        assert(err.code == st && strncmp(err.text, "f: ", 3) == 0);
        return;
    }
    const uint8_t *at = file + s.header_bytes;
    for (size_t i = 0; i < s.n_tensors; i++) {
        assert(s.tensors[i].data == at && s.tensors[i].n_dims <= SAFETENSORS_DIMS_MAX);
        at += s.tensors[i].bytes;
    }
    assert(at == file + size);
    safetensors_close(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    parse(data, size);
    if (size < 8) return 0;
    uint8_t *file = malloc(size);
    if (!file) return 0;
    memcpy(file, data, size);
    uint64_t len = rd_u64le(data) % (size - 7);
    memcpy(file, &len, sizeof len);
    parse(file, size);
    free(file);
    return 0;
}
