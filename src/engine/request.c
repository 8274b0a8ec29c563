/* SPDX-License-Identifier: Apache-2.0 */
/* Implements request.h. */
#include "engine/request.h"

#include <stdlib.h>

void request_release(struct request *r) {
    free(r->prompt);
    free(r->roles);
    free(r->choice.ids);
    free((void *)(uintptr_t)r->sampling.bias);
    *r = (struct request){0};
}
