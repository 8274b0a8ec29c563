/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of the description of a run what comes and what breaks: load, SLOs, faults (run_config.c). */
#include "sim/run_config_impl.h"

static const char *const run_arrivals_names[] = {"trace", "poisson", "closed", NULL};

/* --- load, faults ----------------------------------------------------------------------------- */

/* What only other arrivals look at, or other lengths; but a flag may have changed them. */
static enum st unused(struct run_in *in, const struct doc_node *at) {
    static const struct {
        const char *key;
        enum run_arrivals of;
    } keys[] = {{"rate", RUN_POISSON},
                {"clients", RUN_CLOSED},
                {"rate_scale", RUN_TRACE},
                {"spread", RUN_TRACE}};
    static const char *const own[] = {"input_tokens", "output_tokens"};
    const struct doc_node *arrivals = doc_find(at, "arrivals"), *trace = doc_find(at, "trace");
    enum run_arrivals is = in->c->load.arrivals;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !(arrivals && arrivals->by); i++)
        if (doc_find(at, keys[i].key) && is != keys[i].of)
            return doc_fail(doc_find(at, keys[i].key), in->err,
                            "found with arrivals: %s, expected arrivals: %s",
                            run_arrivals_names[is], run_arrivals_names[keys[i].of]);
    for (size_t i = 0; i < sizeof own / sizeof *own && trace && !trace->by; i++)
        if (doc_find(at, own[i]))
            return doc_fail(doc_find(at, own[i]), in->err,
                            "found with trace, whose lengths are its own");
    if (!trace && doc_find(at, "length_divisor"))
        return doc_fail(doc_find(at, "length_divisor"), in->err,
                        "found without trace, expected with one");
    return ST_OK;
}

enum st run_in_load(struct run_in *in, const struct doc_node *root) {
    static const char *const keys[] = {
        "arrivals",     "trace",          "rate_scale",  "rate",          "clients",
        "input_tokens", "output_tokens",  "requests",    "duration_s",    "tenants",
        "spread",       "length_divisor", "leave_share", "leave_after_s", NULL};
    const struct doc_node *at;
    struct run_config *c = in->c;
    enum st st = run_in_mapping(in, root, "load", keys, &at);
    if (!st && !doc_find(root, "load"))
        return doc_fail(root, in->err, "load: found nothing, expected a mapping");
    if (!st)
        st = run_in_path(in, at, "trace", c->load.trace, sizeof c->load.trace, c->load.trace_at);
    uint32_t kind = c->load.trace[0] ? RUN_TRACE : RUN_POISSON;
    if (!st) st = doc_word(at, "arrivals", run_arrivals_names, &kind, in->err);
    c->load.arrivals = (enum run_arrivals)kind;
    if (!st) st = run_in_number(in, at, "rate_scale", 1e-6, 1e6, 1, &c->load.rate_scale);
    if (!st) st = run_in_number(in, at, "length_divisor", 0.01, 1e6, 1, &c->load.length_divisor);
    if (!st) st = run_in_number(in, at, "rate", 1e-6, 1e6, 1, &c->load.rate);
    if (!st) st = run_in_count(in, at, "clients", 1, 1000000, &c->load.clients);
    if (!st) st = run_in_count(in, at, "input_tokens", 1, RUN_TOKENS_MAX, &c->load.n_in);
    if (!st) st = run_in_count(in, at, "output_tokens", 1, RUN_TOKENS_MAX, &c->load.n_out);
    if (!st) st = doc_count(at, "requests", 1, 1000000000, &c->load.requests, in->err);
    if (!st)
        st = run_in_number(in, at, "duration_s", 1e-3, RUN_SECONDS_MAX, 1, &c->load.duration_s);
    if (!st) st = run_in_count(in, at, "tenants", 1, 64, &c->load.tenants);
    if (!st) st = doc_bool(at, "spread", &c->load.spread, in->err);
    if (!st) st = run_in_number(in, at, "leave_share", 0, 1, 1, &c->load.leave_share);
    if (!st) st = run_in_number(in, at, "leave_after_s", 0, 1e6, 1, &c->load.leave_after_s);
    if (st) return st;
    st = unused(in, at);
    if (st) return st;
    if (c->server[0] && c->load.leave_share > 0)
        return doc_fail(doc_find(at, "leave_share"), in->err,
                        "found a server, expected a cluster: its clients stay");
    if (kind == RUN_TRACE && !c->load.trace[0])
        return doc_fail(at, in->err, "arrivals: trace: expected trace: FILE");
    if (c->load.duration_s <= 0 && c->load.requests == 0)
        return doc_fail(at, in->err, "found neither, expected duration_s or requests");
    if (kind == RUN_POISSON && c->load.duration_s <= 0 &&
        (double)c->load.requests / c->load.rate > RUN_SECONDS_MAX)
        return doc_fail(doc_find(at, "requests"), in->err,
                        "found %llu, expected at most %.0f: what comes in %.0f s",
                        (unsigned long long)c->load.requests, RUN_SECONDS_MAX * c->load.rate,
                        RUN_SECONDS_MAX);
    return ST_OK;
}

/* What would do nothing is refused, where that is certain. */
static enum st fault_used(struct run_in *in, const struct doc_node *at, const char *place,
                          enum run_fault_kind kind, uint32_t index) {
    const struct run_config *c = in->c;
    uint32_t n = run_fault_used(c, kind);
    if (index < n) return ST_OK;
    if (kind == RUN_SUB_PLANE)
        return doc_fail(at, in->err,
                        "%sfound a sub-plane of %s, which carries nothing: hand-over goes over %s, "
                        "the pool over %s",
                        place, c->machine.planes[0].name, c->handover_plane,
                        c->pool.n ? c->pool.plane : "none");
    if (n == 0 && kind == RUN_LINK)
        return doc_fail(at, in->err,
                        "%sfound a chip's link, but hand-over goes over %s, where chips have none",
                        place, c->handover_plane);
    if (n == 0) return doc_fail(at, in->err, "%sfound a pool server, but there is none", place);
    return doc_fail(at, in->err, "%sfound %s %u, expected less than %u: nobody uses it", place,
                    run_fault_names[kind], index, n);
}

static enum st fault(struct run_in *in, const struct doc_node *at, struct run_fault *f) {
    static const char *const keys[] = {"what", "index", "at_s", "for_s", "share", "slow", NULL};
    uint32_t kind = 0;
    *f = (struct run_fault){.share = 0, .slow = 2};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = doc_need(at, "what", in->err);
    if (!st) st = doc_need(at, "at_s", in->err);
    if (!st) st = doc_word(at, "what", run_fault_names, &kind, in->err);
    f->kind = (enum run_fault_kind)kind;
    uint32_t n = run_fault_places(in->c, f->kind);
    if (!st) st = run_in_count(in, at, "index", 0, 1000000, &f->index);
    if (!st) st = run_in_number(in, at, "at_s", 0, RUN_SECONDS_MAX, 1, &f->at_s);
    if (!st) st = run_in_number(in, at, "for_s", 1e-6, RUN_SECONDS_MAX, 1, &f->for_s);
    if (!st) st = run_in_number(in, at, "share", 0.001, 1, 1, &f->share);
    if (!st) st = run_in_number(in, at, "slow", 1, 1000, 1, &f->slow);
    if (!st && kind == RUN_CUT && f->for_s > 0)
        st = doc_fail(doc_find(at, "for_s"), in->err,
                      "found with what: cut, which is of one moment");
    if (!st && doc_find(at, "share") && kind != RUN_LINK && kind != RUN_SUB_PLANE)
        st =
            doc_fail(doc_find(at, "share"), in->err,
                     "found with what: %s, expected with link or sub-plane", run_fault_names[kind]);
    if (!st && doc_find(at, "slow") && kind != RUN_SLOW)
        st = doc_fail(doc_find(at, "slow"), in->err, "found with what: %s, expected with slow",
                      run_fault_names[kind]);
    if (!st && f->index >= n)
        st = doc_fail(at, in->err, "index: found %s %u, expected less than the %u there are",
                      run_fault_names[kind], f->index, n);
    if (!st) st = fault_used(in, at, "index: ", f->kind, f->index);
    if (!st && f->share <= 0) f->share = kind == RUN_LINK ? 0.1 : 0.001;
    return st;
}

static enum st random_fault(struct run_in *in, const struct doc_node *mtbf,
                            enum run_fault_kind kind) {
    struct run_config *c = in->c;
    const char *key = run_fault_names[kind];
    double most = 1e5; /* of a kind in a run */
    enum st st = run_in_number(in, mtbf, key, 1e-6, 1e9, 3600, &c->mtbf_s[kind]);
    if (st || c->mtbf_s[kind] <= 0) return st;
    if (c->load.duration_s / c->mtbf_s[kind] > most)
        return doc_fail(
            doc_find(mtbf, key), in->err, "found %g h, expected %g or more: %g faults in %g s",
            c->mtbf_s[kind] / 3600, c->load.duration_s / most / 3600, most, c->load.duration_s);
    return fault_used(in, doc_find(mtbf, key), "", kind, 0);
}

enum st run_in_faults(struct run_in *in, const struct doc_node *root) {
    struct run_config *c = in->c;
    const struct doc_node *at = doc_find(root, "faults"), *random = NULL, *mtbf = NULL;
    enum st st = ST_OK;
    if (at && at->kind != DOC_LIST)
        return doc_fail(at, in->err, "found %.60s, expected a list",
                        at->kind == DOC_MAP ? "a mapping" : at->text);
    const uint32_t most = sizeof c->faults / sizeof *c->faults;
    if (at && at->n > most)
        return doc_fail(at, in->err, "found %u, expected at most %u", at->n, most);
    for (uint32_t i = 0; at && i < at->n && !st; i++)
        st = fault(in, &at->at[i], &c->faults[c->n_faults++]);
    static const char *const keys[] = {"mtbf_h", "repair_s", NULL};
    if (!st) st = run_in_mapping(in, root, "random_faults", keys, &random);
    if (!st) st = run_in_number(in, random, "repair_s", 1e-6, RUN_SECONDS_MAX, 1, &c->repair_s);
    if (!st) st = run_in_mapping(in, random, "mtbf_h", run_fault_names, &mtbf);
    for (uint32_t k = 0; k < RUN_FAULTS && !st; k++)
        st = random_fault(in, mtbf, (enum run_fault_kind)k);
    if (!st && mtbf->n && c->load.duration_s <= 0)
        st = doc_fail(random, in->err, "expected load: duration_s, until which they come");
    return st;
}

/* --- goodput --------------------------------------------------------------------------------------- */

enum st run_in_slo(struct run_in *in, const struct doc_node *root) {
    static const char *const keys[] = {"ttft_ms", "tpot_ms", NULL};
    const struct doc_node *at;
    enum st st = run_in_mapping(in, root, "slo", keys, &at);
    if (!st) st = run_in_number(in, at, "ttft_ms", 0, 1e9, 1e-3, &in->c->slo_ttft_s);
    if (!st) st = run_in_number(in, at, "tpot_ms", 0, 1e9, 1e-3, &in->c->slo_tpot_s);
    return st;
}
