/* SPDX-License-Identifier: Apache-2.0 */
/* Implements config.h over libyaml's events: they carry line numbers, and what the file may contain
 * is so little that no document tree is needed. */
#include "cli/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <yaml.h>

#include "base/file.h"

enum { CONFIG_BYTES_MAX = 1 << 20, KEY_BYTES_MAX = 64, TEXTS_MAX = 1024 };

struct reader {
    struct config *config;
    const struct flag_command *cmd;
    const char **model;
    const char *path;
    yaml_parser_t yaml;
    yaml_event_t event; /* the current one */
    bool seen[FLAGS_MAX], seen_model;
    struct err *err;
};

static size_t line_of(const struct reader *r) {
    return r->event.start_mark.line + 1;
}

/* --- events ----------------------------------------------------------------------------------- */

static enum st syntax_error(struct reader *r) {
    const yaml_parser_t *y = &r->yaml;
    if (y->error == YAML_MEMORY_ERROR)
        return err_set(r->err, ST_NO_MEMORY, "%s: out of memory", r->path);
    size_t line = y->error == YAML_READER_ERROR ? 0 : y->problem_mark.line + 1;
    if (line == 0)
        return err_set(r->err, ST_INVALID, "%s: byte %zu: %s, expected UTF-8", r->path,
                       y->problem_offset, y->problem);
    return err_set(r->err, ST_INVALID, "%s: line %zu: %s", r->path, line, y->problem);
}

static enum st next(struct reader *r) {
    yaml_event_delete(&r->event);
    memset(&r->event, 0, sizeof r->event);
    return yaml_parser_parse(&r->yaml, &r->event) ? ST_OK : syntax_error(r);
}

static const char *kind_of(const yaml_event_t *e) {
    switch (e->type) {
    case YAML_SCALAR_EVENT: return "a text";
    case YAML_SEQUENCE_START_EVENT: return "a list";
    case YAML_MAPPING_START_EVENT: return "a mapping";
    case YAML_ALIAS_EVENT: return "an alias";
    default: return "the end";
    }
}

static enum st expect(struct reader *r, yaml_event_type_t type, const char *what) {
    enum st st = next(r);
    if (st || r->event.type == type) return st;
    return err_set(r->err, ST_INVALID, "%s: line %zu: found %s, expected %s", r->path, line_of(r),
                   kind_of(&r->event), what);
}

/* --- values ----------------------------------------------------------------------------------- */

/* A copy that lives as long as the config. */
static enum st keep(struct reader *r, const char **out) {
    struct config *c = r->config;
    const char *text = (const char *)r->event.data.scalar.value;
    if (strlen(text) != r->event.data.scalar.length)
        return err_set(r->err, ST_INVALID, "%s: line %zu: found a zero byte", r->path, line_of(r));
    if (c->len == TEXTS_MAX)
        return err_set(r->err, ST_INVALID, "%s: line %zu: more than %d values", r->path, line_of(r),
                       TEXTS_MAX);
    char **v = realloc(c->texts, (c->len + 1) * sizeof *v);
    char *copy = v ? strdup(text) : NULL;
    if (v) c->texts = v;
    if (!copy) return err_set(r->err, ST_NO_MEMORY, "%s: out of memory", r->path);
    *out = c->texts[c->len++] = copy;
    return ST_OK;
}

static bool is_one_of(const char *text, const char *const *words) {
    for (; *words; words++)
        if (strcasecmp(text, *words) == 0) return true;
    return false;
}

static enum st set_bool(struct reader *r, const struct flag *f, const char *text) {
    static const char *const yes[] = {"true", "yes", "on", NULL};
    static const char *const no[] = {"false", "no", "off", NULL};
    bool on = is_one_of(text, yes);
    if (!on && !is_one_of(text, no))
        return err_set(r->err, ST_INVALID, "%s: line %zu: %s: found '%s', expected true or false",
                       r->path, line_of(r), f->name, text);
    *(bool *)f->out = on;
    return ST_OK;
}

/* The current event is a scalar. */
static enum st set_scalar(struct reader *r, const struct flag *f, const char *key) {
    static const char *const nothing[] = {"", "~", "null", NULL};
    const char *text = NULL;
    enum st st = keep(r, &text);
    if (st) return st;
    if (r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && is_one_of(text, nothing))
        return err_set(r->err, ST_INVALID, "%s: line %zu: %s: found nothing, expected a value",
                       r->path, line_of(r), key);
    if (!f) {
        *r->model = text;
        return ST_OK;
    }
    if (f->type == FLAG_BOOL) return set_bool(r, f, text);
    st = flags_set(r->cmd, f, text, r->err);
    return st ? err_prefix(r->err, "%s: line %zu: ", r->path, line_of(r)) : ST_OK;
}

static enum st set_list(struct reader *r, const struct flag *f, const char *key) {
    enum st st = ST_OK;
    if (!f || f->type != FLAG_LIST)
        return err_set(r->err, ST_INVALID, "%s: line %zu: %s: found a list, expected one value",
                       r->path, line_of(r), key);
    while (!(st = next(r)) && r->event.type == YAML_SCALAR_EVENT)
        if ((st = set_scalar(r, f, key))) break;
    if (st || r->event.type == YAML_SEQUENCE_END_EVENT) return st;
    return err_set(r->err, ST_INVALID, "%s: line %zu: %s: found %s, expected a text", r->path,
                   line_of(r), key, kind_of(&r->event));
}

/* --- keys ------------------------------------------------------------------------------------- */

/* The flag of a key, or NULL for `model`. */
static enum st find(struct reader *r, const char *key, const struct flag **out) {
    bool *seen = &r->seen_model;
    *out = NULL;
    if (strcmp(key, "model") != 0 || r->cmd->args_max == 0) {
        const struct flag *f = flags_find(r->cmd, key);
        if (!f || strcmp(key, "config") == 0) {
            const char *near = f ? NULL : flags_near(r->cmd, key);
            return err_set(r->err, ST_INVALID, "%s: line %zu: unknown key %s%s%s%s", r->path,
                           line_of(r), key, near ? "; did you mean " : "", near ? near : "",
                           near ? "?" : "");
        }
        *out = f;
        seen = &r->seen[f - r->cmd->flags];
    }
    if (*seen)
        return err_set(r->err, ST_INVALID, "%s: line %zu: %s stands there twice", r->path,
                       line_of(r), key);
    *seen = true;
    return ST_OK;
}

/* The current event is a key. */
static enum st read_pair(struct reader *r) {
    char key[KEY_BYTES_MAX];
    const struct flag *f;
    if (r->event.type != YAML_SCALAR_EVENT)
        return err_set(r->err, ST_INVALID, "%s: line %zu: found %s, expected a flag's name",
                       r->path, line_of(r), kind_of(&r->event));
    flags_name(key, sizeof key, (const char *)r->event.data.scalar.value,
               r->event.data.scalar.length);
    enum st st = find(r, key, &f);
    if (!st) st = next(r);
    if (st) return st;
    if (f && f->type == FLAG_LIST) ((struct flag_list *)f->out)->len = 0;
    if (r->event.type == YAML_SCALAR_EVENT) return set_scalar(r, f, key);
    if (r->event.type == YAML_SEQUENCE_START_EVENT) return set_list(r, f, key);
    return err_set(r->err, ST_INVALID, "%s: line %zu: %s: found %s, expected a value", r->path,
                   line_of(r), key, kind_of(&r->event));
}

static enum st read_document(struct reader *r) {
    enum st st = expect(r, YAML_STREAM_START_EVENT, "YAML");
    if (!st) st = next(r);
    if (st || r->event.type == YAML_STREAM_END_EVENT) return st; /* an empty file */
    st = expect(r, YAML_MAPPING_START_EVENT, "flags, one a line: 'port: 8000'");
    while (!st && !(st = next(r)) && r->event.type != YAML_MAPPING_END_EVENT) st = read_pair(r);
    if (!st) st = expect(r, YAML_DOCUMENT_END_EVENT, "the end");
    if (!st) st = expect(r, YAML_STREAM_END_EVENT, "one document");
    return st;
}

enum st config_read(struct config *c, const struct flag_command *cmd, const char *path,
                    const char **model, struct err *err) {
    struct buf text = {.max = CONFIG_BYTES_MAX};
    struct reader r = {.config = c, .cmd = cmd, .model = model, .path = path, .err = err};
    enum st st = file_read(&text, path, err);
    if (!st && !yaml_parser_initialize(&r.yaml))
        st = err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    if (!st) {
        yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&r.yaml, (const unsigned char *)(text.data ? text.data : ""),
                                     text.len);
        st = read_document(&r);
        yaml_event_delete(&r.event);
        yaml_parser_delete(&r.yaml);
    }
    buf_release(&text);
    return st;
}

void config_release(struct config *c) {
    for (uint32_t i = 0; i < c->len; i++) free(c->texts[i]);
    free(c->texts);
    *c = (struct config){0};
}

enum st config_parse(struct config *c, enum flag_result *result, const struct flag_command *cmd,
                     int argc, char **argv, const char **args, const char *const *path,
                     struct err *err) {
    const char *model = NULL;
    enum st st = flags_parse(result, cmd, argc, argv, args, err);
    if (st || *result == FLAG_HELP_SHOWN || !*path) return st;
    st = config_read(c, cmd, *path, &model, err);
    if (!st) st = flags_parse(result, cmd, argc, argv, args, err); /* it wins */
    if (!args[0]) args[0] = model;
    return st;
}
