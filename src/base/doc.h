/* SPDX-License-Identifier: Apache-2.0 */
/* A YAML document as a tree whose nodes know their lines: for what people describe in files
 * (hardware, runs), so that every complaint can name file, line and key. Built on libyaml; aliases,
 * tags and more than one document are refused, and so are keys that stand twice in one mapping. */
#ifndef SUPERNODE_BASE_DOC_H
#define SUPERNODE_BASE_DOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct doc;

enum doc_kind { DOC_TEXT, DOC_LIST, DOC_MAP };

struct doc_node {
    enum doc_kind kind;
    uint32_t line;        /* 1 is the first */
    const char *key;      /* in a mapping, else NULL */
    const char *text;     /* TEXT */
    bool quoted;          /* TEXT: in quotes, or a block; never a number or a bool */
    uint32_t n;           /* LIST, MAP: children */
    struct doc_node *at;  /* [n], in the file's order */
    const struct doc *of; /* the document */
    const char *by;       /* who set it in the file's place (doc_set); NULL: the file has it */
};

/* name stands in errors. At most 1 MiB, 64 deep, 100,000 nodes. */
enum st ST_CHECKED doc_read(struct doc **out, const void *bytes, size_t len, const char *name,
                            struct err *err);
enum st ST_CHECKED doc_open(struct doc **out, const char *path, struct err *err);
void doc_free(struct doc *d);                         /* NULL is allowed */
const struct doc_node *doc_root(const struct doc *d); /* an empty document is an empty mapping */
/* What somebody says (by: "sim run: --rate") goes before the file: KEY of the mapping MAP (NULL: of
 * the root) is this text, and complaints about it name who said it. Texts are borrowed. */
enum st ST_CHECKED doc_set(struct doc *d, const char *map, const char *key, const char *text,
                           const char *by, struct err *err);

/* "FILE: line N: KEY: ...", or who set it, and the sentence. */
enum st doc_fail(const struct doc_node *at, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The child of a mapping, or NULL. */
const struct doc_node *doc_find(const struct doc_node *map, const char *key);

/* Children of a mapping by key. A missing one leaves *out as it is and is no error, except for
 * doc_need_*. A number may have a suffix of its own kind only where the caller says so (none here):
 * units stand in the key's name (hbm_gbs, latency_us). Out of [min, max] or not finite: ST_INVALID. */
enum st ST_CHECKED doc_number(const struct doc_node *map, const char *key, double min, double max,
                              double *out, struct err *err);
enum st ST_CHECKED doc_count(const struct doc_node *map, const char *key, uint64_t min,
                             uint64_t max, uint64_t *out, struct err *err);
enum st ST_CHECKED doc_bool(const struct doc_node *map, const char *key, bool *out,
                            struct err *err);
/* The text lives as long as the document. */
enum st ST_CHECKED doc_text(const struct doc_node *map, const char *key, const char **out,
                            struct err *err);
/* The index of the text in words [NULL at the end]. */
enum st ST_CHECKED doc_word(const struct doc_node *map, const char *key, const char *const *words,
                            uint32_t *out, struct err *err);
/* ST_INVALID when the key is missing: names the mapping's line and the key. */
enum st ST_CHECKED doc_need(const struct doc_node *map, const char *key, struct err *err);
/* ST_INVALID for the first key of the mapping that is none of these [NULL at the end]; it offers the
 * nearest one. */
enum st ST_CHECKED doc_only(const struct doc_node *map, const char *const *known, struct err *err);

#endif
