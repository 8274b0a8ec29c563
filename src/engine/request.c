/* SPDX-License-Identifier: Apache-2.0 */
/* Implements request.h. */
#include "engine/request.h"

#include <stdlib.h>
#include <sys/random.h>

bool request_draw_seed(struct request *r) {
    uint64_t drawn;
    if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) return false;
    r->seed = (int64_t)(drawn >> 11);
    return true;
}

void request_release(struct request *r) {
    free(r->prompt);
    free(r->roles);
    free(r->choice.ids);
    free((void *)(uintptr_t)r->sampling.bias);
    *r = (struct request){0};
}
