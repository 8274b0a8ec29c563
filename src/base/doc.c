/* SPDX-License-Identifier: Apache-2.0 */
/* Implements doc.h over libyaml's events. Finished nodes wait on one stack; when their list or mapping
 * ends they are moved behind each other into the document's arena, so that a tree is arrays of
 * children and is freed at once. */
#include "base/doc.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/near.h"

enum {
    DOC_BYTES_MAX = 1 << 20,
    DEPTH_MAX = 64,
    NODES_MAX = 100000,
    KEYS_MAX = 1000, /* of one mapping: they are compared with each other */
    KEY_BYTES_MAX = 64,
};
static const size_t arena_bytes_max = (size_t)64 << 20;

struct doc {
    struct arena arena;
    const char *name;
    struct doc_node root;
};

struct reader {
    struct doc *doc;
    yaml_parser_t yaml;
    yaml_event_t event;     /* the current one */
    struct doc_node *stack; /* finished nodes whose parents are not */
    uint32_t n, cap, total;
    struct err *err;
};

/* --- events --------------------------------------------------------------------------------------- */

static enum st no_memory(const struct reader *r) {
    return err_set(r->err, ST_NO_MEMORY, "%s: out of memory", r->doc->name);
}

static uint32_t line_of(const struct reader *r) {
    return (uint32_t)r->event.start_mark.line + 1;
}

static enum st fail_here(const struct reader *r, const char *what) {
    return err_set(r->err, ST_INVALID, "%s: line %u: %s", r->doc->name, line_of(r), what);
}

static enum st syntax_error(const struct reader *r) {
    const yaml_parser_t *y = &r->yaml;
    if (y->error == YAML_MEMORY_ERROR) return no_memory(r);
    if (y->error == YAML_READER_ERROR)
        return err_set(r->err, ST_INVALID, "%s: byte %zu: %s, expected UTF-8", r->doc->name,
                       y->problem_offset, y->problem);
    return err_set(r->err, ST_INVALID, "%s: line %zu: %s", r->doc->name, y->problem_mark.line + 1,
                   y->problem);
}

static enum st next(struct reader *r) {
    yaml_event_delete(&r->event);
    memset(&r->event, 0, sizeof r->event);
    return yaml_parser_parse(&r->yaml, &r->event) ? ST_OK : syntax_error(r);
}

/* --- building the tree ---------------------------------------------------------------------------- */

static enum st keep_text(struct reader *r, const char **out) {
    size_t len = r->event.data.scalar.length;
    const unsigned char *text = r->event.data.scalar.value;
    if (memchr(text, 0, len)) return fail_here(r, "found a zero byte, expected text");
    char *copy = arena_alloc(&r->doc->arena, len + 1);
    if (!copy) return no_memory(r);
    memcpy(copy, text, len);
    copy[len] = '\0';
    *out = copy;
    return ST_OK;
}

static enum st push(struct reader *r, const struct doc_node *node) {
    if (r->total == NODES_MAX) return fail_here(r, "more than 100,000 values in the file");
    if (r->n == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 64;
        struct doc_node *v = realloc(r->stack, cap * sizeof *v);
        if (!v) return no_memory(r);
        r->stack = v;
        r->cap = cap;
    }
    r->stack[r->n++] = *node;
    r->total++;
    return ST_OK;
}

/* Everything on the stack from `first` on becomes the children of node. */
static enum st adopt(struct reader *r, struct doc_node *node, uint32_t first) {
    uint32_t n = r->n - first;
    node->at = arena_alloc(&r->doc->arena, n * sizeof *node->at);
    if (!node->at) return no_memory(r);
    if (n) memcpy(node->at, r->stack + first, n * sizeof *node->at);
    node->n = n;
    r->n = first;
    return ST_OK;
}

/* The current event is a key of the mapping whose children lie on the stack from `first` on. */
static enum st read_key(struct reader *r, uint32_t first, const char **key) {
    if (r->event.type != YAML_SCALAR_EVENT || r->event.data.scalar.tag)
        return fail_here(r, "found something else, expected a key");
    if (r->event.data.scalar.length == 0 || r->event.data.scalar.length > KEY_BYTES_MAX)
        return fail_here(r, "expected a key of 1 to 64 bytes");
    enum st st = keep_text(r, key);
    if (!st && r->n - first == KEYS_MAX) st = fail_here(r, "more than 1,000 keys in one mapping");
    for (uint32_t i = first; !st && i < r->n; i++)
        if (strcmp(r->stack[i].key, *key) == 0)
            st = err_set(r->err, ST_INVALID, "%s: line %u: %s: found it twice, first in line %u",
                         r->doc->name, line_of(r), *key, r->stack[i].line);
    return st;
}

static enum st read_node(struct reader *r, struct doc_node *node, uint32_t depth);

static enum st read_children(struct reader *r, struct doc_node *node, uint32_t depth) {
    bool map = node->kind == DOC_MAP;
    yaml_event_type_t end = map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    uint32_t first = r->n;
    enum st st;
    if (depth == DEPTH_MAX) return fail_here(r, "nested deeper than 64");
    while (!(st = next(r)) && r->event.type != end) {
        struct doc_node child = {0};
        if (map) {
            st = read_key(r, first, &child.key);
            child.line = line_of(r); /* where a reader looks for it, not where its value begins */
            if (!st) st = next(r);
        }
        if (!st) st = read_node(r, &child, depth + 1);
        if (!st) st = push(r, &child);
        if (st) return st;
    }
    return st ? st : adopt(r, node, first);
}

/* The current event begins a node; in a mapping its key and line are there already. */
static enum st read_node(struct reader *r, struct doc_node *node, uint32_t depth) {
    const yaml_event_t *e = &r->event;
    if (!node->line) node->line = line_of(r);
    node->of = r->doc;
    if (e->type == YAML_SCALAR_EVENT) {
        if (e->data.scalar.tag || e->data.scalar.anchor)
            return fail_here(r, "found a tag or an anchor, expected a value");
        node->kind = DOC_TEXT;
        node->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        return keep_text(r, &node->text);
    }
    bool map = e->type == YAML_MAPPING_START_EVENT;
    if (!map && e->type != YAML_SEQUENCE_START_EVENT)
        return fail_here(r, "found an alias, expected a value");
    if (map ? e->data.mapping_start.tag || e->data.mapping_start.anchor
            : e->data.sequence_start.tag || e->data.sequence_start.anchor)
        return fail_here(r, "found a tag or an anchor, expected a value");
    node->kind = map ? DOC_MAP : DOC_LIST;
    return read_children(r, node, depth);
}

static enum st read_stream(struct reader *r) {
    enum st st = next(r); /* the stream's start */
    if (!st) st = next(r);
    if (st || r->event.type == YAML_STREAM_END_EVENT) return st;
    st = next(r); /* past the document's start */
    if (!st) st = read_node(r, &r->doc->root, 0);
    struct doc_node *root = &r->doc->root;
    if (!st && root->kind == DOC_TEXT && !root->quoted && root->text[0] == '\0')
        *root = (struct doc_node){.kind = DOC_MAP, .line = 1, .of = r->doc}; /* only comments */
    if (!st) st = next(r);
    if (!st) st = next(r);
    if (!st && r->event.type != YAML_STREAM_END_EVENT)
        st = fail_here(r, "found a second document, expected one");
    return st;
}

enum st doc_read(struct doc **out, const void *bytes, size_t len, const char *name,
                 struct err *err) {
    struct doc *d = calloc(1, sizeof *d);
    char *copy = NULL;
    if (len >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        bytes = (const char *)bytes + 3;
        len -= 3;
    }
    if (len > DOC_BYTES_MAX) {
        free(d);
        return err_set(err, ST_INVALID, "%s: found %zu bytes, expected at most 1 MiB", name, len);
    }
    if (d) {
        d->arena.max = arena_bytes_max;
        copy = arena_alloc(&d->arena, strlen(name) + 1);
    }
    struct reader r = {.doc = d, .err = err};
    if (!copy || !yaml_parser_initialize(&r.yaml)) {
        doc_free(d);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    d->name = strcpy(copy, name);
    d->root = (struct doc_node){.kind = DOC_MAP, .line = 1, .of = d};
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.yaml, len ? bytes : (const unsigned char *)"", len);
    enum st st = read_stream(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    free(r.stack);
    if (st)
        doc_free(d);
    else
        *out = d;
    return st;
}

enum st doc_open(struct doc **out, const char *path, struct err *err) {
    struct buf text = {.max = DOC_BYTES_MAX};
    enum st st = file_read(&text, path, err);
    if (!st) st = doc_read(out, text.data, text.len, path, err);
    buf_release(&text);
    return st;
}

void doc_free(struct doc *d) {
    if (!d) return;
    arena_release(&d->arena);
    free(d);
}

const struct doc_node *doc_root(const struct doc *d) {
    return &d->root;
}

/* The mapping's child of that key, a new one if need be; NULL: out of memory. */
static struct doc_node *child(struct doc *d, struct doc_node *map, const char *key) {
    for (uint32_t i = 0; i < map->n; i++)
        if (strcmp(map->at[i].key, key) == 0) return &map->at[i];
    struct doc_node *at = arena_alloc(&d->arena, (map->n + (size_t)1) * sizeof *at);
    if (!at) return NULL;
    if (map->n) memcpy(at, map->at, map->n * sizeof *at);
    at[map->n] = (struct doc_node){.kind = DOC_MAP, .line = map->line, .key = key, .of = d};
    map->at = at;
    return &at[map->n++];
}

enum st doc_set(struct doc *d, const char *map, const char *key, const char *text, const char *by,
                struct err *err) {
    struct doc_node *in = &d->root;
    if (in->kind != DOC_MAP) return ST_OK; /* who reads it will say so */
    uint32_t n = in->n;
    if (map) in = child(d, in, map);
    if (in && d->root.n > n) in->by = by; /* the file has no such mapping */
    if (in && in->kind != DOC_MAP) return ST_OK;
    struct doc_node *to = in ? child(d, in, key) : NULL;
    if (!to) return err_set(err, ST_NO_MEMORY, "%s: out of memory", d->name);
    *to = (struct doc_node){
        .kind = DOC_TEXT, .line = to->line, .key = to->key, .text = text, .of = d, .by = by};
    return ST_OK;
}

/* --- errors --------------------------------------------------------------------------------------- */

enum st doc_fail(const struct doc_node *at, struct err *err, const char *fmt, ...) {
    char text[sizeof err->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!at) return err_set(err, ST_INVALID, "%s", text);
    if (at->by) return err_set(err, ST_INVALID, "%s: %s", at->by, text);
    return err_set(err, ST_INVALID, "%s: line %u: %s%s%s", at->of ? at->of->name : "?", at->line,
                   at->key ? at->key : "", at->key ? ": " : "", text);
}

/* Nothing stands behind the key. */
static bool is_nothing(const struct doc_node *n) {
    return n->kind == DOC_TEXT && !n->quoted &&
           (!n->text[0] || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

static enum st expected(const struct doc_node *n, struct err *err, const char *what) {
    if (n->kind == DOC_LIST) return doc_fail(n, err, "found a list, expected %s", what);
    if (n->kind == DOC_MAP) return doc_fail(n, err, "found a mapping, expected %s", what);
    if (is_nothing(n)) return doc_fail(n, err, "found nothing, expected %s", what);
    return doc_fail(n, err, "found '%.60s'%s, expected %s", n->text, n->quoted ? " in quotes" : "",
                    what);
}

/* --- values --------------------------------------------------------------------------------------- */

const struct doc_node *doc_find(const struct doc_node *map, const char *key) {
    if (map->kind != DOC_MAP) return NULL;
    for (uint32_t i = 0; i < map->n; i++)
        if (strcmp(map->at[i].key, key) == 0) return &map->at[i];
    return NULL;
}

/* strtod would also take "0x1p3", "inf" and "nan". */
static bool parse_number(const struct doc_node *n, double *out) {
    if (n->kind != DOC_TEXT || n->quoted || !n->text[0]) return false;
    if (n->text[strspn(n->text, "0123456789+-.eE")]) return false;
    char *end;
    *out = strtod(n->text, &end);
    return end != n->text && *end == '\0' && isfinite(*out);
}

enum st doc_number(const struct doc_node *map, const char *key, double min, double max, double *out,
                   struct err *err) {
    const struct doc_node *n = doc_find(map, key);
    double v;
    if (!n) return ST_OK;
    if (!parse_number(n, &v)) return expected(n, err, "a number");
    if (!(v >= min && v <= max))
        return doc_fail(n, err, "found %.60s, expected %.9g to %.9g", n->text, min, max);
    *out = v;
    return ST_OK;
}

enum st doc_count(const struct doc_node *map, const char *key, uint64_t min, uint64_t max,
                  uint64_t *out, struct err *err) {
    const struct doc_node *n = doc_find(map, key);
    if (!n) return ST_OK;
    bool digits =
        n->kind == DOC_TEXT && !n->quoted && n->text[0] && !n->text[strspn(n->text, "0123456789")];
    if (!digits) {
        char what[80];
        snprintf(what, sizeof what, "a whole number from %llu to %llu", (unsigned long long)min,
                 (unsigned long long)max);
        return expected(n, err, what);
    }
    errno = 0;
    unsigned long long v = strtoull(n->text, NULL, 10);
    if (errno || v < min || v > max)
        return doc_fail(n, err, "found %.60s, expected %llu to %llu", n->text,
                        (unsigned long long)min, (unsigned long long)max);
    *out = v;
    return ST_OK;
}

enum st doc_bool(const struct doc_node *map, const char *key, bool *out, struct err *err) {
    const struct doc_node *n = doc_find(map, key);
    if (!n) return ST_OK;
    bool plain = n->kind == DOC_TEXT && !n->quoted;
    if (plain && strcmp(n->text, "true") == 0)
        *out = true;
    else if (plain && strcmp(n->text, "false") == 0)
        *out = false;
    else
        return expected(n, err, "true or false");
    return ST_OK;
}

enum st doc_text(const struct doc_node *map, const char *key, const char **out, struct err *err) {
    const struct doc_node *n = doc_find(map, key);
    if (!n) return ST_OK;
    if (n->kind != DOC_TEXT || is_nothing(n)) return expected(n, err, "a text");
    *out = n->text;
    return ST_OK;
}

/* --- words ---------------------------------------------------------------------------------------- */

static const char *near(const char *text, const char *const *words) {
    const char *best = NULL;
    uint32_t least = 4;
    for (; *words; words++) {
        uint32_t d = near_distance(*words, text);
        if (d < least && d < strlen(*words)) least = d, best = *words;
    }
    return best;
}

static void list_words(char *out, size_t size, const char *const *words) {
    size_t at = 0;
    out[0] = '\0';
    for (const char *const *w = words; *w && at < size; w++)
        at += (size_t)snprintf(out + at, size - at, "%s%s",
                               w == words ? ""
                               : w[1]     ? ", "
                                          : " or ",
                               *w);
}

enum st doc_word(const struct doc_node *map, const char *key, const char *const *words,
                 uint32_t *out, struct err *err) {
    const struct doc_node *n = doc_find(map, key);
    if (!n) return ST_OK;
    for (uint32_t i = 0; n->kind == DOC_TEXT && words[i]; i++)
        if (strcmp(n->text, words[i]) == 0) {
            *out = i;
            return ST_OK;
        }
    char all[256];
    list_words(all, sizeof all, words);
    return expected(n, err, all);
}

enum st doc_need(const struct doc_node *map, const char *key, struct err *err) {
    if (map->kind != DOC_MAP) return expected(map, err, "a mapping");
    return doc_find(map, key) ? ST_OK : doc_fail(map, err, "%s is missing", key);
}

enum st doc_only(const struct doc_node *map, const char *const *known, struct err *err) {
    if (map->kind != DOC_MAP) return expected(map, err, "a mapping");
    for (uint32_t i = 0; i < map->n; i++) {
        const char *key = map->at[i].key;
        const char *const *k = known;
        while (*k && strcmp(*k, key) != 0) k++;
        if (*k) continue;
        const char *best = near(key, known);
        if (best) return doc_fail(&map->at[i], err, "unknown key; did you mean %s?", best);
        char all[256];
        list_words(all, sizeof all, known);
        return doc_fail(&map->at[i], err, "unknown key, expected %s", all);
    }
    return ST_OK;
}
