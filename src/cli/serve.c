/* SPDX-License-Identifier: Apache-2.0 */
/* supernode serve: opens a model, says what it is, and answers OpenAI clients until it is told to
 * stop. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/config.h"
#include "cli/engine_args.h"
#include "cli/front_args.h"
#include "engine/record.h"
#include "serve/compute.h"

struct serve_args {
    struct engine_args engine;
    struct front_args front;
    const char *record; /* NULL: no */
};

struct serving {
    struct server *server;
    struct local local;
    struct record *record;
    struct compute_engine compute;
    bool computes; /* compute is there */
    struct front front;
};

/* The engine computes on the model, or on what notes down how long that takes. */
static enum st open_engine(struct serving *s, const struct serve_args *a, struct err *err) {
    const struct executor *x = exec_model_executor(s->local.exec);
    if (a->record) {
        enum st st = record_open(&s->record, a->record, x, &a->engine.engine, err);
        if (st) return st;
        x = record_executor(s->record);
    }
    return engine_new(&s->local.engine, x, &a->engine.engine, err);
}

static enum st open_all(struct serving *s, struct serve_args *a, const char *model,
                        struct err *err) {
    struct instance_options o;
    enum st st = engine_args_finish(&o, &a->engine, model, err);
    if (!st) st = front_args_finish(&a->front, err);
    if (!st) st = server_new(&s->server, &a->front.server, err);
    if (!st) st = local_open_model(&s->local, &o, &a->engine.engine, err);
    if (!st) st = open_engine(s, a, err);
    if (st) return st;
    struct front_options f = {.ckpt = s->local.in.ckpt,
                              .model_id = s->local.in.model_id,
                              .served_name = a->front.served_name,
                              .max_model_len = s->local.in.max_model_len,
                              .time_left_ms = a->front.request_timeout_s * 1000,
                              .trust = a->front.trust_message_tokens ? PROMPT_TRUST_MESSAGES
                                                                     : PROMPT_TRUST_NONE};
    st = front_open(&s->front, &f, err);
    if (st) return st;
    compute_engine_init(&s->compute, s->local.engine, s->record);
    s->computes = true;
    struct compute compute = compute_engine(&s->compute);
    return server_start(s->server, &s->front, &compute, NULL, err);
}

static int run(struct serve_args *a, const char *model, struct err *err) {
    uint64_t begun = clock_now_ns();
    struct serving s = {0};
    const char *name = model ? model : "models/tiny";
    if (!a->front.served_name) a->front.served_name = name;
    enum st st = open_all(&s, a, model, err);
    if (!st) {
        front_print_model(s.local.in.ckpt, name);
        engine_print(&a->engine, &s.local);
        front_print_serving(&a->front, server_port(s.server), s.front.chat != NULL, begun);
        st = server_run(s.server, err);
    }
    server_free(s.server);
    if (s.computes) compute_engine_release(&s.compute);
    front_close(&s.front);
    local_close(&s.local);
    struct err late;
    if (record_close(s.record, &late) && !st) st = (*err = late).code;
    front_args_release(&a->front);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_serve(int argc, char **argv) {
    struct serve_args a = {0};
    const char *args[1];
    struct flag flags[FRONT_FLAGS_MAX + ENGINE_FLAGS_MAX + 2] = {{0}};
    front_args_init(&a.front, "serve");
    engine_args_init(&a.engine);
    uint32_t n = front_args_flags(flags, &a.front);
    n += engine_args_flags(flags + n, &a.engine);
    flags[n] = (struct flag){"record-steps",
                             "FILE",
                             FLAG_STR,
                             &a.record,
                             0,
                             0,
                             "write down every step and how long it took, for bench calibrate and "
                             "sim run --replay",
                             true};
    const struct flag_command cmd = {
        .name = "serve",
        .what = "Serves a model to OpenAI clients over HTTP.",
        .usage = "supernode serve [MODEL] [flags]",
        .example = "supernode serve models/tiny --port 8000",
        .flags = flags,
        .args_max = 1,
    };
    struct config config = {0};
    struct err err;
    enum flag_result result;
    enum st st = config_parse(&config, &result, &cmd, argc, argv, args, &a.front.config, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    int code = st ? cli_fail(CLI_USAGE, &err) : run(&a, args[0], &err);
    config_release(&config);
    return code;
}
