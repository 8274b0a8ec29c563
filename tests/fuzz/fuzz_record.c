/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer: the input is a recording of steps. It is refused with a sentence, or what was read is
 * what an executor can be and can have done. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check(const struct record_file *f) {
    require(f->x.n_pages && f->x.n_slots && f->x.max_model_len && f->x.vocab && f->x.rows_max);
    require(isfinite(f->x.expand_cost) && f->x.expand_cost >= 0);
    require(f->engine.speculate <= SPECULATE_ON);
    require(f->model_id[0] && memchr(f->model_id, 0, sizeof f->model_id));
    for (uint64_t i = 0; i < f->n; i++) {
        const struct record_work *w = &f->v[i];
        require(w->kind == RECORD_STEP || w->kind == RECORD_PIECE);
        require(w->runs > 0 && w->rows >= w->runs && w->end_ns >= w->begin_ns);
    }
    for (uint64_t i = 0; i < f->n_requests; i++)
        require(f->requests[i].arrived_ns <= f->requests[i].taken_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct record_file f;
    struct err err = {.text = ""};
    char path[64];
    int fd = memfd_create("record", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (record_read(&f, path, &err) == ST_OK)
        check(&f);
    else
        require(err.text[0] && !f.v && !f.requests);
    record_file_release(&f);
    close(fd);
    return 0;
}
