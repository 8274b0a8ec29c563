/* SPDX-License-Identifier: Apache-2.0 */
/* The loop variable (jinja2.runtime.LoopContext): positions, neighbours, cycle, changed. Looking
 * ahead takes one element from the sequence early; asking a generator for its length takes all. */
#include "text/jinja_loop.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct jj_loop {
    struct jj_run *run;
    struct jj_frame *outer;
    const struct jj_node *node;
    struct jj_val seq;
    struct jj_iter *it;
    int64_t index0;
    uint32_t depth0, len;
    bool has_len, has_after;
    struct jj_val before, now, after;
    struct jj_val last_changed; /* JJ_MISSING, or the tuple of the last call */
};

struct jj_loop *jj_loop_new(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                            struct jj_val seq, uint32_t depth0) {
    struct jj_loop *l = jj_alloc(run->j, sizeof *l);
    *l = (struct jj_loop){
        .run = run, .outer = f, .node = n, .seq = seq, .index0 = -1, .depth0 = depth0};
    l->it = jj_iter(run->j, seq);
    return l;
}

bool jj_loop_next(struct jj *j, struct jj_loop *l, struct jj_val *out) {
    if (l->has_after)
        *out = l->after;
    else if (!jj_next(j, l->it, out))
        return false;
    l->has_after = false;
    l->index0++;
    l->before = l->now;
    l->now = *out;
    return true;
}

static bool peek(struct jj *j, struct jj_loop *l) {
    if (!l->has_after) l->has_after = jj_next(j, l->it, &l->after);
    return l->has_after;
}

uint32_t jj_loop_len(struct jj *j, struct jj_loop *l) {
    if (l->has_len) return l->len;
    l->has_len = true;
    if (!jj_len(l->seq, &l->len)) {
        struct jj_list *rest = jj_to_list(j, jj_iterv(l->it));
        l->it = jj_iter(j, jj_listv(rest));
        l->len = rest->len + (uint32_t)(l->index0 + 1) + l->has_after;
    }
    return l->len;
}

static struct jj_val loop_cycle(struct jj *j, struct jj_val self, const struct jj_val *a,
                                const struct jj_args *raw) {
    (void)a;
    if (!raw->n || raw->n_kw) jj_fail(j, ST_INVALID, "loop.cycle: no items for cycling given");
    return raw->pos[self.loop->index0 % raw->n];
}

static struct jj_val loop_changed(struct jj *j, struct jj_val self, const struct jj_val *a,
                                  const struct jj_args *raw) {
    (void)a;
    struct jj_loop *l = self.loop;
    struct jj_list *now = jj_list_new(j, raw->n);
    if (raw->n_kw) jj_fail(j, ST_INVALID, "loop.changed: unexpected keyword argument");
    for (uint32_t i = 0; i < raw->n; i++) jj_list_push(j, now, raw->pos[i]);
    struct jj_val v = jj_tuplev(now);
    bool changed = !jj_given(l->last_changed) || !jj_equal(j, l->last_changed, v);
    l->last_changed = v;
    return jj_bool(changed);
}

static const struct jj_builtin cycle = {"cycle", loop_cycle, NULL},
                               changed = {"changed", loop_changed, NULL};

bool jj_loop_attr(struct jj *j, struct jj_val loop, const struct jj_str *name, struct jj_val *out) {
    struct jj_loop *l = loop.loop;
    int64_t i = l->index0, n;
    bool is_cycle = jj_str_is(name, "cycle");
    if (is_cycle || jj_str_is(name, "changed")) {
        struct jj_method *m = jj_alloc(j, sizeof *m);
        *m = (struct jj_method){.f = is_cycle ? &cycle : &changed, .self = loop};
        *out = (struct jj_val){.kind = JJ_METHOD, .method = m};
        return true;
    }
    if (jj_str_is(name, "first")) return *out = jj_bool(i == 0), true;
    if (jj_str_is(name, "last")) return *out = jj_bool(!peek(j, l)), true;
    if (jj_str_is(name, "previtem"))
        return *out = i == 0 ? jj_undef_hint(j, "there is no previous item") : l->before, true;
    if (jj_str_is(name, "nextitem"))
        return *out = peek(j, l) ? l->after : jj_undef_hint(j, "there is no next item"), true;
    if (jj_str_is(name, "index"))
        n = i + 1;
    else if (jj_str_is(name, "index0"))
        n = i;
    else if (jj_str_is(name, "depth"))
        n = (int64_t)l->depth0 + 1;
    else if (jj_str_is(name, "depth0"))
        n = l->depth0;
    else if (jj_str_is(name, "length"))
        n = jj_loop_len(j, l);
    else if (jj_str_is(name, "revindex"))
        n = (int64_t)jj_loop_len(j, l) - i;
    else if (jj_str_is(name, "revindex0"))
        n = (int64_t)jj_loop_len(j, l) - i - 1;
    else
        return false;
    *out = jj_int(n, CHAT_FROM_TEMPLATE);
    return true;
}

struct jj_val jj_loop_call(struct jj *j, struct jj_loop *l, const struct jj_args *args) {
    if (!l->node->recursive)
        jj_fail(j, ST_INVALID,
                "the loop must have the 'recursive' marker to be called recursively");
    if (args->n != 1 || args->n_kw)
        jj_fail(j, ST_INVALID, "loop: found %u arguments, expected 1", args->n + args->n_kw);
    struct jj_sb b = {.j = j}, *before = l->run->out;
    l->run->out = &b;
    jj_exec_for(l->run, l->outer, l->node, args->pos[0], l->depth0 + 1);
    l->run->out = before;
    return jj_strv(jj_sb_done(&b));
}

void jj_put_loop_repr(struct jj_sb *b, struct jj_loop *l) {
    char text[80];
    snprintf(text, sizeof text, "<LoopContext %" PRId64 "/%u>", l->index0 + 1,
             jj_loop_len(b->j, l));
    jj_sb_lit(b, text);
}
