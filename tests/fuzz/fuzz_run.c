/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a trace and as the description of a run: refused with a sentence, or accepted with
 * numbers that a simulation can start from. */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "sim/run.h"
#include "sim/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_trace(const struct trace *t) {
    assert(t->n_rows > 0 && isfinite(t->span_s) && t->span_s >= 0);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct trace_row *row = &t->rows[i];
        assert(row->n_in > 0 && row->at_s >= 0 && (i == 0 || row->at_s >= row[-1].at_s));
        assert(row->block + row->n_blocks <= t->n_blocks);
        assert((uint64_t)row->n_blocks * TRACE_BLOCK_TOKENS <
               (uint64_t)row->n_in + TRACE_BLOCK_TOKENS);
    }
}

static void check_config(const struct run_config *c) {
    assert(c->prefill.n > 0 && c->decode.n > 0 && c->prefill.setup.dies > 0);
    assert(c->load.duration_s > 0 || c->load.requests > 0);
    assert(c->load.tenants > 0 && c->load.rate_scale > 0 && c->max_model_len > 0);
    struct step_decode d = {.requests = 1, .kv_tokens = 1};
    double s = step_decode_s(&c->decode.setup, &d, NULL);
    assert(isfinite(s) && s > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = {.text = ""};
    struct trace t;
    if (trace_read(&t, (const char *)data, size, "t", 0, &err) == ST_OK)
        check_trace(&t);
    else
        assert(err.text[0]);
    trace_release(&t);
    struct run_config *c = malloc(sizeof *c);
    assert(c);
    err.text[0] = 0;
    if (run_config_read(c, data, size, "c", &err) != ST_OK)
        assert(err.text[0]);
    else if (!c->server[0]) /* else it is one server alone */
        check_config(c);
    free(c);
    return 0;
}
