/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 once more, compiled for AVX-512 (Makefile); sum.c calls it where the machine has that. */
#include "pool/sum.h"

#ifdef __AVX512F__

#define XXH_INLINE_ALL
#include <xxhash.h>

void sum_update_avx512(void *state, const void *data, size_t len) {
    XXH3_128bits_update(state, data, len);
}

#endif
