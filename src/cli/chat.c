/* SPDX-License-Identifier: Apache-2.0 */
/* supernode chat: a conversation with a server in a terminal, or line by line through pipes. The
 * history is kept here and sent whole each turn, as the API has it. Ctrl-C while an answer streams
 * drops that request, which the server takes as a reason to stop computing; at the prompt it
 * leaves. What a model writes cannot command the terminal: control characters are left out. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/http_client.h"

enum { REPLY_BYTES_MAX = 16 << 20, TEXT_BYTES_MAX = 64 << 20 };

struct args {
    const char *url, *system;
    float temperature, top_p; /* below 0: the model's */
    uint32_t max_tokens;      /* 0: what fits */
    struct flag_i64 seed;
};

struct chat {
    const struct args *a;
    struct event_base *base;
    struct http_client *client;
    json_t *messages;
    char *model;
    bool terminal; /* people see the output */
    bool asking;   /* and type the input: prompts are shown */
    bool failed;

    /* the answer that streams */
    struct http_call *call;
    struct http_sse sse;
    struct buf text, refusal;
    struct err err;
    uint64_t first_ns, last_ns;
    uint32_t chunks, tokens;
    bool done, stopped;
};

static const char help[] = "  /system TEXT   set the system prompt (nothing: none)\n"
                           "  /reset         forget the conversation\n"
                           "  /help          this\n"
                           "  Ctrl-C stops an answer; at the prompt it leaves, as Ctrl-D does\n";

/* --- showing ---------------------------------------------------------------------------------- */

/* Leaves out C0, DEL and C1, but for newline and tab. Text is UTF-8. */
static void show_safely(const char *s, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i], next = i + 1 < len ? (unsigned char)s[i + 1] : 0;
        if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
            i++;
            continue;
        }
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) continue;
        putchar(c);
    }
}

static void show(const struct chat *c, const char *s, size_t len) {
    if (c->terminal)
        show_safely(s, len);
    else
        fwrite(s, 1, len, stdout);
    fflush(stdout);
}

static void say_failure(struct chat *c, const struct err *err) {
    fflush(stdout);
    (void)cli_fail(CLI_FAILED, err);
    c->failed = true;
}

/* --- one answer ------------------------------------------------------------------------------- */

static void on_event(void *arg, const char *data, size_t len) {
    struct chat *c = arg;
    json_t *chunk;
    struct err err;
    if (strcmp(data, "[DONE]") == 0) {
        c->done = true;
        return;
    }
    if (c->err.code || json_parse(&chunk, data, len, "event", &err)) {
        if (!c->err.code) c->err = err;
        return;
    }
    const char *failure = json_string_value(json_at(chunk, "error.message"));
    const json_t *choice = json_array_get(json_at(chunk, "choices"), 0);
    const json_t *content = json_at(choice, "delta.content");
    json_int_t tokens = json_integer_value(json_at(chunk, "usage.completion_tokens"));
    if (json_at(chunk, "error"))
        (void)err_set(&c->err, ST_GONE, "chat: %s", failure ? failure : "the server failed");
    if (tokens > 0 && tokens <= UINT32_MAX) c->tokens = (uint32_t)tokens;
    if (json_string_length(content)) {
        c->last_ns = clock_now_ns();
        if (c->chunks++ == 0) c->first_ns = c->last_ns;
        show(c, json_string_value(content), json_string_length(content));
        if (buf_append(&c->text, json_string_value(content), json_string_length(content)))
            (void)err_set(&c->err, ST_NO_MEMORY, "chat: the answer is too long");
    }
    json_decref(chunk);
}

static void on_data(void *arg, int status, const char *data, size_t len) {
    struct chat *c = arg;
    size_t room = c->refusal.max - c->refusal.len;
    if (status != 200) {
        if (buf_append(&c->refusal, data, len < room ? len : room)) c->refusal.len = 0;
    } else if (http_sse_feed(&c->sse, data, len, on_event, c)) {
        (void)err_set(&c->err, ST_NO_MEMORY, "chat: an event is too long");
    }
}

/* What an answer with an error status said, if it is OpenAI's object. */
static void take_refusal(struct chat *c, int status) {
    struct err ignored;
    json_t *o = NULL;
    if (c->refusal.len && json_parse(&o, c->refusal.data, c->refusal.len, "answer", &ignored))
        o = NULL;
    const char *said = json_string_value(json_at(o, "error.message"));
    (void)err_set(&c->err, ST_INVALID, "chat: the server answers %d%s%s", status, said ? ": " : "",
                  said ? said : "");
    json_decref(o);
}

static void on_end(void *arg, enum http_end how, int status) {
    struct chat *c = arg;
    c->call = NULL;
    if (how == HTTP_END_NO_CONNECT)
        (void)err_set(&c->err, ST_GONE, "%s: nothing answers there", http_client_url(c->client));
    else if (status != 200)
        take_refusal(c, status);
    else if (!c->done && !c->err.code)
        (void)err_set(&c->err, ST_GONE, "chat: the answer broke off");
    event_base_loopbreak(c->base);
}

static void on_interrupt(evutil_socket_t fd, short what, void *arg) {
    struct chat *c = arg;
    (void)fd;
    (void)what;
    if (c->call) http_call_cancel(c->call);
    c->call = NULL;
    c->stopped = true;
    event_base_loopbreak(c->base);
}

/* 0.7 and not the float nearest to it. */
static json_t *decimal(float v) {
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)v);
    return json_real(strtod(text, NULL));
}

static enum st make_body(struct buf *out, const struct chat *c, struct err *err) {
    const struct args *a = c->a;
    json_t *o = json_pack("{ss,sO,sb,s{sb}}", "model", c->model, "messages", c->messages, "stream",
                          1, "stream_options", "include_usage", 1);
    if (a->temperature >= 0) (void)json_object_set_new(o, "temperature", decimal(a->temperature));
    if (a->top_p >= 0) (void)json_object_set_new(o, "top_p", decimal(a->top_p));
    if (a->max_tokens) (void)json_object_set_new(o, "max_tokens", json_integer(a->max_tokens));
    if (a->seed.given) (void)json_object_set_new(o, "seed", json_integer(a->seed.v));
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    enum st st = text ? buf_append_str(out, text) : ST_NO_MEMORY;
    free(text);
    json_decref(o);
    return st ? err_set(err, st, "chat: out of memory") : ST_OK;
}

/* Runs until the answer ended, one way or another; c->err says how. */
static void run_call(struct chat *c) {
    struct buf body = {.max = TEXT_BYTES_MAX};
    struct event *interrupt = evsignal_new(c->base, SIGINT, on_interrupt, c);
    c->text.len = c->refusal.len = c->sse.line.len = 0;
    c->chunks = c->tokens = 0;
    c->done = c->stopped = false;
    c->err = (struct err){0};
    if (!interrupt || event_add(interrupt, NULL))
        (void)err_set(&c->err, ST_NO_MEMORY, "chat: out of memory");
    else if (!make_body(&body, c, &c->err) &&
             !http_call_begin(&c->call, c->client, "/v1/chat/completions", &body,
                              &(struct http_handler){on_data, on_end, c}, &c->err))
        while (c->call)
            if (event_base_dispatch(c->base) < 0) break;
    if (interrupt) event_free(interrupt); /* gives the signal back to the prompt */
    buf_release(&body);
}

static void show_about(const struct chat *c) {
    double s = (double)(c->last_ns - c->first_ns) / 1e9;
    uint32_t tokens = c->tokens ? c->tokens : c->chunks;
    printf("\033[2m[%u token%s", tokens, tokens == 1 ? "" : "s");
    if (tokens > 1 && s > 0) printf(", %.0f tokens/s", (tokens - 1) / s);
    printf("%s]\033[0m\n", c->stopped ? ", stopped" : "");
}

static json_t *message(const char *role, const char *text) {
    return json_pack("{ss,ss}", "role", role, "content", text);
}

static void drop_last(json_t *messages) {
    (void)json_array_remove(messages, json_array_size(messages) - 1);
}

/* What was said of a stopped answer stays in the history; a question without an answer does not. */
static void ask(struct chat *c, const char *text) {
    json_t *question = message("user", text);
    if (!question) {
        (void)err_set(&c->err, ST_INVALID, "chat: the line is not UTF-8");
        say_failure(c, &c->err);
        return;
    }
    (void)json_array_append_new(c->messages, question);
    run_call(c);
    bool line_open = c->text.len && c->text.data[c->text.len - 1] != '\n';
    if (line_open || c->stopped) printf("\n");
    if (c->terminal && (c->text.len || c->stopped)) show_about(c);
    if (c->text.len)
        (void)json_array_append_new(c->messages, message("assistant", c->text.data));
    else
        drop_last(c->messages);
    if (c->err.code && !c->stopped) say_failure(c, &c->err);
}

/* --- commands --------------------------------------------------------------------------------- */

/* An empty text takes it away. */
static void set_system(struct chat *c, const char *text) {
    const json_t *first = json_array_get(c->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    if (role && strcmp(role, "system") == 0) (void)json_array_remove(c->messages, 0);
    if (*text) (void)json_array_insert_new(c->messages, 0, message("system", text));
}

static void reset(struct chat *c) {
    json_t *first = json_incref(json_array_get(c->messages, 0));
    const char *role = json_string_value(json_object_get(first, "role"));
    (void)json_array_clear(c->messages);
    if (role && strcmp(role, "system") == 0) (void)json_array_append(c->messages, first);
    json_decref(first);
}

static void command(struct chat *c, const char *line) {
    size_t len = strcspn(line, " ");
    const char *rest = line + len + strspn(line + len, " ");
    if (len == 7 && memcmp(line, "/system", 7) == 0) {
        set_system(c, rest);
    } else if (len == 6 && memcmp(line, "/reset", 6) == 0) {
        reset(c);
    } else if (len == 5 && memcmp(line, "/help", 5) == 0) {
        printf("%s", help);
    } else {
        (void)err_set(&c->err, ST_INVALID, "chat: unknown command %.*s; /help lists them", (int)len,
                      line);
        say_failure(c, &c->err);
    }
}

/* --- the conversation ------------------------------------------------------------------------- */

static void at_prompt(int signal_number) {
    (void)signal_number; /* it only ends the read */
}

static void converse(struct chat *c) {
    struct sigaction leave = {.sa_handler = at_prompt}; /* without SA_RESTART */
    char *line = NULL;
    size_t cap = 0;
    sigaction(SIGINT, &leave, NULL);
    if (c->asking) printf("%s at %s   (/help)\n", c->model, http_client_url(c->client));
    for (;;) {
        if (c->asking) printf("\033[1m>\033[0m ");
        fflush(stdout);
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0) break;
        while (len && strchr("\r\n \t", line[len - 1])) line[--len] = '\0';
        if (len == 0) continue;
        if (line[0] == '/')
            command(c, line);
        else
            ask(c, line);
    }
    if (c->asking) printf("\n");
    free(line);
}

static enum st ask_model(struct chat *c, const char *given, struct err *err) {
    struct buf reply = {.max = REPLY_BYTES_MAX};
    json_t *models = NULL;
    int status = 0;
    enum st st = http_fetch(&status, &reply, c->client, "/v1/models", NULL, err);
    const char *url = http_client_url(c->client);
    if (st == ST_GONE)
        st = err_set(err, ST_GONE,
                     "%s: nothing answers there; start a server with: supernode serve", url);
    if (!st && given) {
        c->model = strdup(given);
    } else if (!st && status == 200) {
        st = json_parse(&models, reply.data ? reply.data : "", reply.len, "/v1/models", err);
        const json_t *first = st ? NULL : json_array_get(json_at(models, "data"), 0);
        const char *id = json_string_value(json_at(first, "id"));
        c->model = id ? strdup(id) : NULL;
    }
    if (!st && !c->model)
        st = err_set(err, ST_INVALID, "%s/v1/models: status %d names no model%s", url, status,
                     status == 401 ? "; the key is taken from OPENAI_API_KEY" : "; give one");
    json_decref(models);
    buf_release(&reply);
    return st;
}

static enum st open_chat(struct chat *c, const char *model, struct err *err) {
    c->sse.line.max = HTTP_SSE_LINE_MAX;
    c->text.max = TEXT_BYTES_MAX;
    c->refusal.max = 1 << 16;
    c->terminal = isatty(STDOUT_FILENO);
    c->asking = c->terminal && isatty(STDIN_FILENO);
    c->messages = json_array();
    c->base = event_base_new();
    if (!c->messages || !c->base) return err_set(err, ST_NO_MEMORY, "chat: out of memory");
    enum st st = http_client_new(&c->client, c->base, c->a->url, err);
    if (!st) st = ask_model(c, model, err);
    if (!st && c->a->system) set_system(c, c->a->system);
    return st;
}

static enum st parse(enum flag_result *result, struct args *a, const char **model, int argc,
                     char **argv, struct err *err) {
    const struct flag flags[] = {
        {"url", "URL", FLAG_STR, &a->url, 0, 0, "the server (default http://127.0.0.1:8000)",
         false},
        {"system", "TEXT", FLAG_STR, &a->system, 0, 0, "system prompt (default none)", false},
        {"temperature", "T", FLAG_F32, &a->temperature, 0, 2, "0 to 2 (default: the model's)",
         false},
        {"top-p", "P", FLAG_F32, &a->top_p, 0, 1, "0 to 1 (default: the model's)", false},
        {"max-tokens", "N", FLAG_U32, &a->max_tokens, 1, UINT32_MAX,
         "longest answer (default: what fits)", false},
        {"seed", "N", FLAG_I64, &a->seed, 0, 0, "of every answer (default: drawn)", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "chat",
        .what = "Talks with a model on a server: lines in, answers out as they are computed.\n"
                "Ctrl-C stops an answer; at the prompt it leaves. /help lists commands.",
        .usage = "supernode chat [MODEL] [flags]",
        .example = "supernode chat --url http://127.0.0.1:8000 --temperature 0.7",
        .flags = flags,
        .args_max = 1,
    };
    return flags_parse(result, &cmd, argc, argv, model, err);
}

int cli_chat(int argc, char **argv) {
    struct args a = {.url = "http://127.0.0.1:8000", .temperature = -1, .top_p = -1};
    struct chat c = {.a = &a};
    const char *model = NULL;
    struct err err;
    enum flag_result result;
    if (parse(&result, &a, &model, argc, argv, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    enum st st = open_chat(&c, model, &err);
    if (!st) converse(&c);
    http_client_free(c.client);
    if (c.base) event_base_free(c.base);
    json_decref(c.messages);
    buf_release(&c.sse.line);
    buf_release(&c.text);
    buf_release(&c.refusal);
    free(c.model);
    if (st) return cli_fail(CLI_FAILED, &err);
    return c.failed && !c.asking ? CLI_FAILED : 0;
}
