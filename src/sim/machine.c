/* SPDX-License-Identifier: Apache-2.0 */
/* Implements machine.h: a description in YAML becomes a struct machine, or a sentence. Every figure is
 * written {value: 64, source: "P2 3.3.1"}; the first word of a source is a key of the file's `sources`,
 * or "estimate:" or "derived:" with the reason behind it. What a description contradicts itself in is
 * refused: a path faster than its link, a link faster than the node's way out. */
#include "sim/machine.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/doc.h"
#include "sim/embedded.h"
#include "sim/operators.h"

const char *const machine_type_names[MACHINE_TYPES + 1] = {"bf16", "int8", "fp8", "fp4", NULL};
const char *const machine_transfer_names[MACHINE_TRANSFERS + 1] = {"read", "write", "read_cpu",
                                                                   "write_cpu", NULL};

#define GIGA  1e9
#define TERA  1e12
#define MICRO 1e-6

struct in {
    struct machine *m;
    const struct doc_node *sources;
    struct err *err;
};

/* --- figures -------------------------------------------------------------------------------------- */

static enum st check_source(const struct in *in, const struct doc_node *at, const char *text) {
    size_t word = strcspn(text, " :,;");
    bool own = text[word] == ':' && ((word == 8 && strncmp(text, "estimate", 8) == 0) ||
                                     (word == 7 && strncmp(text, "derived", 7) == 0));
    if (own && strlen(text) > word + 4) return ST_OK;
    if (own) return doc_fail(at, in->err, "found '%.60s', expected a reason behind it", text);
    for (uint32_t i = 0; i < in->sources->n; i++) {
        const char *key = in->sources->at[i].key;
        if (strlen(key) == word && strncmp(key, text, word) == 0) return ST_OK;
    }
    return doc_fail(at, in->err,
                    "found '%.60s', expected it to begin with one of the file's sources, "
                    "'estimate:' or 'derived:'",
                    text);
}

/* The source of a figure, or of a table whose figures have one in common. */
static enum st source_of(const struct in *in, const struct doc_node *map) {
    const char *text = NULL;
    enum st st = doc_need(map, "source", in->err);
    if (!st) st = doc_text(map, "source", &text, in->err);
    return st ? st : check_source(in, doc_find(map, "source"), text);
}

struct range {
    double min, max, unit; /* in the file's unit; what one of it is */
};

/* Leaves *out as it is where the key is missing. */
static enum st figure(const struct in *in, const struct doc_node *map, const char *key,
                      struct range r, double *out) {
    static const char *const keys[] = {"value", "source", NULL};
    const struct doc_node *f = doc_find(map, key);
    double v = 0;
    if (!f) return ST_OK;
    if (f->kind != DOC_MAP)
        return doc_fail(f, in->err, "found no source, expected {value: ..., source: ...}");
    enum st st = doc_only(f, keys, in->err);
    if (!st) st = doc_need(f, "value", in->err);
    if (st) return st;
    if (doc_number(f, "value", r.min, r.max, &v, NULL)) {
        const struct doc_node *value = doc_find(f, "value");
        return doc_fail(f, in->err, "found %.60s, expected a number of %g to %g",
                        value->kind == DOC_TEXT ? value->text : "something else", r.min, r.max);
    }
    st = source_of(in, f);
    if (!st) *out = v * r.unit;
    return st;
}

static enum st figure_count(const struct in *in, const struct doc_node *map, const char *key,
                            uint32_t min, uint32_t max, uint32_t *out) {
    double v = *out;
    enum st st = figure(in, map, key, (struct range){min, max, 1}, &v);
    if (!st && v != floor(v))
        st = doc_fail(doc_find(map, key), in->err, "found %g, expected a whole number", v);
    if (!st) *out = (uint32_t)v;
    return st;
}

static enum st need_figure(const struct in *in, const struct doc_node *map, const char *key,
                           struct range r, double *out) {
    enum st st = doc_need(map, key, in->err);
    return st ? st : figure(in, map, key, r, out);
}

static enum st need_count(const struct in *in, const struct doc_node *map, const char *key,
                          uint32_t min, uint32_t max, uint32_t *out) {
    enum st st = doc_need(map, key, in->err);
    return st ? st : figure_count(in, map, key, min, max, out);
}

static enum st name_of(const struct in *in, const struct doc_node *map, char *out) {
    const char *text = NULL;
    enum st st = doc_need(map, "name", in->err);
    if (!st) st = doc_text(map, "name", &text, in->err);
    if (st) return st;
    size_t len = strlen(text);
    if (len == 0 || len >= MACHINE_NAME_MAX ||
        text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_.")])
        return doc_fail(doc_find(map, "name"), in->err,
                        "found '%.80s', expected 1 to %d of a-z, 0-9, '-', '_' and '.'", text,
                        MACHINE_NAME_MAX - 1);
    memcpy(out, text, len + 1);
    return ST_OK;
}

/* --- die, chip, node, machine --------------------------------------------------------------------- */

static const struct range gbs = {0.001, 1e6, GIGA}, gb = {0.001, 1e6, GIGA}, us = {0, 1e6, MICRO},
                          watts = {0.1, 1e6, 1}, tera_ops = {0.001, 1e6, TERA};

static enum st read_die(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"cube_cores", "vector_cores", "bf16_tflops",
                                       "int8_tops",  "fp8_tflops",   "fp4_tflops",
                                       "hbm_gb",     "hbm_gbs",      NULL};
    struct machine *m = in->m;
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = need_count(in, at, "cube_cores", 1, 100000, &m->cube_cores);
    if (!st) st = need_count(in, at, "vector_cores", 1, 100000, &m->vector_cores);
    if (!st) st = doc_need(at, keys[2 + TYPE_BF16], in->err); /* attention, gate and head */
    for (int i = 0; i < MACHINE_TYPES && !st; i++)
        st = figure(in, at, keys[2 + i], tera_ops, &m->peak[i]);
    if (!st) st = need_figure(in, at, "hbm_gb", gb, &m->hbm_bytes);
    if (!st) st = need_figure(in, at, "hbm_gbs", gbs, &m->hbm_bps);
    return st;
}

static enum st read_chip(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"dies", "power_w", NULL};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = need_count(in, at, "dies", 1, 16, &in->m->dies_per_chip);
    if (!st) st = figure(in, at, "power_w", watts, &in->m->chip_w);
    return st;
}

static enum st read_node(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"chips",  "cpus",    "dram_gb", "ssd_gbs",
                                       "ssd_us", "power_w", NULL};
    struct machine *m = in->m;
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = need_count(in, at, "chips", 1, 1024, &m->chips_per_node);
    if (!st) st = figure_count(in, at, "cpus", 0, 64, &m->cpus_per_node);
    if (!st) st = figure(in, at, "dram_gb", gb, &m->node_dram_bytes);
    if (!st) st = figure(in, at, "ssd_gbs", (struct range){0.01, 1000, 1e9}, &m->node_ssd_bps);
    if (!st) st = figure(in, at, "ssd_us", (struct range){1, 1e6, 1e-6}, &m->node_ssd_s);
    if (!st) st = figure(in, at, "power_w", watts, &m->node_w);
    if (!st && m->node_w > 0 && m->node_w < m->chip_w * m->chips_per_node)
        st = doc_fail(doc_find(at, "power_w"), in->err,
                      "found %g, expected no less than its chips' %g", m->node_w,
                      m->chip_w * m->chips_per_node);
    return st;
}

static enum st read_cluster(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"nodes", "nodes_per_rack", "power_kw", NULL};
    struct machine *m = in->m;
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = need_count(in, at, "nodes", 1, 4096, &m->n_nodes);
    if (!st) st = figure_count(in, at, "nodes_per_rack", 1, 4096, &m->nodes_per_rack);
    if (!st) st = figure(in, at, "power_kw", (struct range){0.001, 1e6, 1000}, &m->machine_w);
    if (!st && m->nodes_per_rack > m->n_nodes)
        st = doc_fail(doc_find(at, "nodes_per_rack"), in->err,
                      "found %u, expected at most the machine's %u nodes", m->nodes_per_rack,
                      m->n_nodes);
    return st;
}

/* --- planes --------------------------------------------------------------------------------------- */

static enum st read_path(const struct in *in, const struct doc_node *at,
                         const struct machine_plane *p, bool leaves, enum machine_transfer what,
                         struct machine_path *out) {
    static const char *const keys[] = {"gbs", "us", NULL};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = doc_need(at, "gbs", in->err);
    if (!st) st = doc_need(at, "us", in->err);
    if (!st) st = doc_number(at, "gbs", gbs.min, gbs.max, &out->rate_bps, in->err);
    if (!st) st = doc_number(at, "us", us.min, us.max, &out->latency_s, in->err);
    if (st) return st;
    out->rate_bps *= gbs.unit;
    out->latency_s *= us.unit;
    double link = p->die_bps > 0 ? p->die_bps : p->node_bps;
    bool cpu = what == TRANSFER_READ_CPU || what == TRANSFER_WRITE_CPU;
    if (cpu && p->cpu_bps > 0 && (link <= 0 || p->cpu_bps < link)) link = p->cpu_bps;
    const struct doc_node *rate = doc_find(at, "gbs");
    if (link > 0 && out->rate_bps > link)
        return doc_fail(rate, in->err, "found %s, expected at most the link's %g", rate->text,
                        link / GIGA);
    if (leaves && p->uplink_bps > 0 && out->rate_bps > p->uplink_bps)
        return doc_fail(rate, in->err, "found %s, expected at most the node's uplink of %g",
                        rate->text, p->uplink_bps / GIGA);
    return ST_OK;
}

/* Both tables have one source: that of the measurement. */
static enum st read_paths(const struct in *in, const struct doc_node *at, struct machine_plane *p) {
    static const char *const keys[] = {"source", "same_node", "other_node", NULL};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = source_of(in, at);
    for (int where = 0; where < 2 && !st; where++) {
        const struct doc_node *table = doc_find(at, keys[1 + where]);
        struct machine_path *paths = where ? p->other_node : p->same_node;
        if (table) st = doc_only(table, machine_transfer_names, in->err);
        for (int t = 0; t < MACHINE_TRANSFERS && table && !st; t++) {
            const struct doc_node *path = doc_find(table, machine_transfer_names[t]);
            if (path) st = read_path(in, path, p, where, (enum machine_transfer)t, &paths[t]);
        }
    }
    return st;
}

static enum st check_plane(const struct in *in, const struct doc_node *at,
                           const struct machine_plane *p) {
    const struct machine *m = in->m;
    if (p->die_bps <= 0 && p->cpu_bps <= 0 && p->node_bps <= 0)
        return doc_fail(at, in->err,
                        "plane %s: found no link, expected die_gbs, cpu_gbs or node_gbs", p->name);
    if (p->domain_nodes > m->n_nodes)
        return doc_fail(doc_find(at, "domain_nodes"), in->err,
                        "found %u, expected at most the machine's %u nodes", p->domain_nodes,
                        m->n_nodes);
    double most = fmax(fmax(p->die_bps, p->cpu_bps), p->node_bps);
    if (p->uplink_bps > 0 && p->uplink_bps < most)
        return doc_fail(doc_find(at, "uplink_gbs"), in->err,
                        "found %g, expected no less than the link of %g below it",
                        p->uplink_bps / GIGA, most / GIGA);
    for (uint32_t i = 0; i < m->n_planes; i++)
        if (strcmp(m->planes[i].name, p->name) == 0)
            return doc_fail(doc_find(at, "name"), in->err, "found %s twice", p->name);
    return ST_OK;
}

static enum st read_plane(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {
        "name",         "die_gbs",    "cpu_gbs",          "node_gbs", "sub_planes",
        "domain_nodes", "uplink_gbs", "library_start_us", "paths",    NULL};
    struct machine_plane p = {.sub_planes = 1};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = name_of(in, at, p.name);
    if (!st) st = figure(in, at, "die_gbs", gbs, &p.die_bps);
    if (!st) st = figure(in, at, "cpu_gbs", gbs, &p.cpu_bps);
    if (!st) st = figure(in, at, "node_gbs", gbs, &p.node_bps);
    if (!st) st = figure_count(in, at, "sub_planes", 1, 64, &p.sub_planes);
    if (!st) st = figure_count(in, at, "domain_nodes", 1, 4096, &p.domain_nodes);
    if (!st) st = figure(in, at, "uplink_gbs", gbs, &p.uplink_bps);
    if (!st) st = figure(in, at, "library_start_us", us, &p.library_start_s);
    if (!st) st = check_plane(in, at, &p);
    if (!st) st = doc_need(at, "paths", in->err);
    if (!st) st = read_paths(in, doc_find(at, "paths"), &p);
    if (!st) in->m->planes[in->m->n_planes++] = p;
    return st;
}

/* --- software ------------------------------------------------------------------------------------- */

static enum st read_software(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"launch_us", "step_us", "graphs_ahead", NULL};
    struct machine *m = in->m;
    double ahead = 0;
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = figure(in, at, "launch_us", us, &m->launch_s);
    if (!st) st = figure(in, at, "step_us", us, &m->step_s);
    if (!st) st = figure(in, at, "graphs_ahead", (struct range){0, 1, 1}, &ahead);
    m->graphs_ahead = ahead > 0;
    return st;
}

static struct machine_operator *find_operator(struct machine *m, const char *name) {
    for (uint32_t i = 0; i < m->n_operators; i++)
        if (strcmp(m->operators[i].name, name) == 0) return &m->operators[i];
    return NULL;
}

/* One element of `operators`: {name, fixed_us, share, calibrated: "on what"}. */
static enum st read_operator(const struct in *in, const struct doc_node *at) {
    static const char *const keys[] = {"name", "fixed_us", "share", "calibrated", NULL};
    struct machine_operator o = {0};
    const char *on = NULL;
    struct err why;
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = name_of(in, at, o.name);
    if (!st) st = doc_need(at, "calibrated", in->err);
    if (!st) st = doc_text(at, "calibrated", &on, in->err);
    if (st) return st;
    if (find_operator(in->m, o.name))
        return doc_fail(doc_find(at, "name"), in->err, "found %s twice", o.name);
    const struct op_constants *c = op_constants_find(o.name);
    if (c) o.fixed_s = c->fixed_s, o.share = c->share;
    double fixed_us = o.fixed_s / MICRO;
    st = doc_number(at, "fixed_us", us.min, us.max, &fixed_us, in->err);
    if (!st) st = doc_number(at, "share", 0, 1, &o.share, in->err);
    if (st) return st;
    if (doc_find(at, "fixed_us")) o.fixed_s = fixed_us * MICRO;
    if (op_constants_check(&o, &why)) return doc_fail(at, in->err, "%s", why.text);
    in->m->operators[in->m->n_operators++] = o;
    return ST_OK;
}

/* What the file does not say of operators is what their table says. */
static void default_operators(struct machine *m) {
    for (const struct op_constants *c = op_constants; c->name; c++) {
        if (find_operator(m, c->name)) continue;
        assert(m->n_operators < MACHINE_OPERATORS_MAX);
        struct machine_operator *o = &m->operators[m->n_operators++];
        *o = (struct machine_operator){.fixed_s = c->fixed_s, .share = c->share};
        snprintf(o->name, sizeof o->name, "%s", c->name);
    }
}

/* --- the file ------------------------------------------------------------------------------------- */

static enum st read_sources(struct in *in, const struct doc_node *root) {
    static const struct doc_node none = {.kind = DOC_MAP};
    const struct doc_node *at = doc_find(root, "sources");
    in->sources = at ? at : &none;
    if (!at) return ST_OK;
    if (at->kind != DOC_MAP) return doc_fail(at, in->err, "expected a mapping of names to texts");
    for (uint32_t i = 0; i < at->n; i++) {
        const char *text;
        enum st st = doc_text(at, at->at[i].key, &text, in->err);
        if (st) return st;
    }
    return ST_OK;
}

static enum st read_list(const struct in *in, const struct doc_node *root, const char *key,
                         uint32_t max,
                         enum st (*each)(const struct in *in, const struct doc_node *at)) {
    const struct doc_node *list = doc_find(root, key);
    enum st st = ST_OK;
    if (!list) return ST_OK;
    if (list->kind != DOC_LIST) return doc_fail(list, in->err, "expected a list");
    if (list->n > max)
        return doc_fail(list, in->err, "found %u, expected at most %u", list->n, max);
    for (uint32_t i = 0; i < list->n && !st; i++) st = each(in, &list->at[i]);
    return st;
}

static enum st read_root(struct in *in, const struct doc_node *root) {
    static const char *const keys[] = {"name",    "about",  "sources",  "die",       "chip", "node",
                                       "cluster", "planes", "software", "operators", NULL};
    static const struct {
        const char *key;
        enum st (*read)(const struct in *in, const struct doc_node *at);
    } parts[] = {
        {"die", read_die}, {"chip", read_chip}, {"node", read_node}, {"cluster", read_cluster}};
    const char *about = NULL;
    enum st st = doc_only(root, keys, in->err);
    if (!st) st = name_of(in, root, in->m->name);
    if (!st) st = doc_text(root, "about", &about, in->err);
    if (!st) st = read_sources(in, root);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !st; i++) {
        st = doc_need(root, parts[i].key, in->err);
        if (!st) st = parts[i].read(in, doc_find(root, parts[i].key));
    }
    if (!st) st = doc_need(root, "planes", in->err);
    if (!st) st = read_list(in, root, "planes", MACHINE_PLANES_MAX, read_plane);
    if (!st && in->m->n_planes == 0)
        st = doc_fail(doc_find(root, "planes"), in->err, "found none, expected at least one");
    if (!st && doc_find(root, "software")) st = read_software(in, doc_find(root, "software"));
    if (!st) st = read_list(in, root, "operators", MACHINE_OPERATORS_MAX, read_operator);
    if (!st) default_operators(in->m);
    return st;
}

static enum st from_doc(struct machine *m, struct doc *d, struct err *err) {
    struct machine read = {0};
    struct in in = {.m = &read, .err = err};
    enum st st = read_root(&in, doc_root(d));
    if (!st) *m = read;
    doc_free(d);
    return st;
}

enum st machine_read(struct machine *m, const void *bytes, size_t len, const char *name,
                     struct err *err) {
    struct doc *d;
    enum st st = doc_read(&d, bytes, len, name, err);
    return st ? st : from_doc(m, d, err);
}

static enum st unknown(const char *name, struct err *err) {
    char all[256];
    size_t at = 0;
    all[0] = '\0';
    for (const char *const *n = machine_names(); *n && at < sizeof all; n++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s, ", *n);
    return err_set(err, ST_NOT_FOUND, "hardware %.100s: unknown, expected %sor a FILE.yaml", name,
                   all);
}

bool machine_is_path(const char *name) {
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".yaml") == 0);
}

enum st machine_open(struct machine *m, const char *name, struct err *err) {
    const char *bytes;
    size_t len;
    struct doc *d;
    if (machine_is_path(name)) {
        enum st st = doc_open(&d, name, err);
        return st ? st : from_doc(m, d, err);
    }
    if (!embedded_hardware(name, &bytes, &len)) return unknown(name, err);
    return machine_read(m, bytes, len, name, err);
}

/* --- asking --------------------------------------------------------------------------------------- */

const struct machine_plane *machine_plane(const struct machine *m, const char *name) {
    for (uint32_t i = 0; i < m->n_planes; i++)
        if (strcmp(m->planes[i].name, name) == 0) return &m->planes[i];
    return NULL;
}

const struct machine_operator *machine_operator(const struct machine *m, const char *name) {
    static const struct machine_operator none = {.name = "none", .share = 1};
    for (uint32_t i = 0; i < m->n_operators; i++)
        if (strcmp(m->operators[i].name, name) == 0) return &m->operators[i];
    return &none;
}

enum machine_type machine_weights(const struct machine *m) {
    if (m->peak[TYPE_FP8] > 0) return TYPE_FP8;
    return m->peak[TYPE_INT8] > 0 ? TYPE_INT8 : TYPE_BF16;
}
