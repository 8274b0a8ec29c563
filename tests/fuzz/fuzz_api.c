/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer: the input is a request body, its first byte says of which endpoint. It is accepted
 * with sane values or refused with a 4xx and a sentence, and its error object is JSON. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api_messages.h"
#include "serve/api_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check_prompts(const struct api_request *q, uint32_t vocab) {
    require(q->n_prompts >= 1 && q->n_prompts <= REQUEST_CHOICES_MAX);
    for (uint32_t i = 0; i < q->n_prompts; i++) {
        const struct api_prompt *p = &q->prompts[i];
        require((p->text != NULL) != (p->ids != NULL));
        for (uint32_t k = 0; k < p->n_ids; k++) require(p->ids[k] < vocab);
    }
}

static void check_generation(const struct api_request *q, uint32_t vocab) {
    require(q->sampling.temperature >= 0 && q->sampling.top_p > 0 && q->sampling.top_p <= 1);
    require(q->n_stops <= TEXT_STOPS_MAX && q->n_stop_ids <= API_STOP_IDS_MAX &&
            q->logprobs <= REQUEST_LOGPROBS_MAX && q->prompt_logprobs <= REQUEST_LOGPROBS_MAX);
    for (uint32_t i = 0; i < q->n_stops; i++)
        require(q->stops[i][0] && strlen(q->stops[i]) <= TEXT_STOP_BYTES_MAX);
    for (uint32_t i = 0; i < q->sampling.n_bias; i++) require(q->sampling.bias[i].id < vocab);
    require(q->n >= 1 && q->best_of >= q->n && strlen(q->salt) < sizeof q->salt);
    require(q->best_of * (q->n_prompts ? q->n_prompts : 1) <= REQUEST_CHOICES_MAX);
}

static void check_accepted(struct api_request *q, uint32_t vocab) {
    if (q->kind == API_CHAT || q->kind == API_COMPLETION) check_generation(q, vocab);
    if (!q->messages) {
        require(q->kind != API_CHAT);
        check_prompts(q, vocab);
        return;
    }
    require(json_array_size(q->messages) > 0);
    bool changed;
    json_t *m = api_messages_with_argument_objects(q->messages, &changed);
    require(m != NULL);
    json_decref(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct generation_config defaults = {
        .temperature = 1, .top_p = 1, .repetition_penalty = 1};
    static const struct api_context ctx = {.model = "m", .defaults = &defaults, .vocab = 1000};
    struct api_request q;
    struct api_error e = {0};
    if (size == 0) return 0;
    enum api_kind kind = (enum api_kind)(data[0] % 4);
    if (api_request_parse(&q, kind, (const char *)data + 1, size - 1, &ctx, &e)) {
        check_accepted(&q, ctx.vocab);
        api_request_drop_body(&q);
        for (uint32_t i = 0; i < q.n_stops; i++) require(q.stops[i][0]);
        if (q.echo_text) require(json_is_string(q.echo_text));
        api_request_release(&q);
        return 0;
    }
    require(e.status >= 400 && e.status < 500 && e.message[0]);
    struct buf out = {.max = 1 << 16};
    json_error_t je;
    require(api_error_write(&out, &e) == ST_OK);
    json_t *v = json_loadb(out.data, out.len, 0, &je);
    require(v != NULL);
    json_decref(v);
    buf_release(&out);
    return 0;
}
