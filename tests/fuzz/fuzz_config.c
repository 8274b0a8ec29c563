/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as config.json and generation_config.json: refused with a sentence, or accepted with
 * sizes whose products fit and numbers the forward pass can start from. */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "model/config_json.h"
#include "model/kv.h"
#include "model/step.h"
#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const struct model_config *c) {
    struct err err;
    assert(config_check(c, &err) == ST_OK);
    assert(isfinite(c->attn_scale) && c->attn_scale > 0 && isfinite(c->rotary.cos_sin_scale));
    float inv_freq[512];
    assert(c->rope / 2 <= 512);
    ops_rope_inv_freq(inv_freq, &c->rotary);
    for (uint32_t i = 0; i < c->rope / 2; i++) assert(isfinite(inv_freq[i]));
    assert(weight_count(c) <= (size_t)1025 * (4096 * 3 + 32));
    for (enum weight_kind kind = 0; kind < W_KINDS; kind++) {
        uint32_t rows, cols;
        weight_shape(c, kind, &rows, &cols);
        assert((uint64_t)rows * cols < (uint64_t)1 << 48);
    }
    assert(kv_page_bytes_all(c, OPS_F32) < (uint64_t)1 << 40);
    struct step_limits limits = {.rows_max = 512, .logits_max = 512};
    assert(step_bytes(c, limits, 1, 1) < (uint64_t)1 << 48);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json;
    struct err err = {.text = ""};
    if (json_parse(&json, (const char *)data, size, "c", &err)) {
        assert(strncmp(err.text, "c: ", 3) == 0);
        return 0;
    }
    struct model_config c;
    struct config_facts facts;
    struct generation_config g;
    if (config_from_json(&c, &facts, json, "c", &err))
        assert(strncmp(err.text, "c: ", 3) == 0);
    else
        check_accepted(&c);
    generation_config_init(&g);
    if (!generation_config_from_json(&g, json, "c", &err))
        assert(g.temperature >= 0 && g.top_p >= 0 && g.n_eos <= CONFIG_EOS_MAX);
    json_decref(json);
    return 0;
}
