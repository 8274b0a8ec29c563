/* SPDX-License-Identifier: Apache-2.0 */
/* Walks the tree. A frame holds the variables of one scope; a loop's body uses one frame over and
 * over, cleared for each round, as the function that Jinja compiles a template to does. Output goes
 * to the string being built, which macros, set blocks and filter blocks exchange for one of their
 * own while they run. */
#include "text/jinja_eval.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_loop.h"
#include "text/jinja_show.h"

/* --- frames ----------------------------------------------------------------------------------- */

static struct jj_val from_context(struct jj_run *run, const struct jj_str *name) {
    const struct jj_val *v = jj_dict_get_str(run->j, run->context, name);
    if (v) return *v;
    const struct jj_global *g = jj_global_find(name);
    return g ? (struct jj_val){.kind = JJ_GLOBAL, .global = g}
             : (struct jj_val){.kind = JJ_MISSING};
}

static struct jj_val from_outer(struct jj *j, const struct jj_frame *f, const struct jj_str *name) {
    for (; f; f = f->up) {
        jj_spend(j, f->scope->n / 64);
        int64_t i = jj_scope_find(f->scope, name);
        if (i >= 0) return f->v[i];
    }
    return (struct jj_val){.kind = JJ_MISSING};
}

static void fill_frame(struct jj_run *run, struct jj_frame *f) {
    jj_spend(run->j, f->scope->n / 16 + 1);
    for (uint32_t i = 0; i < f->scope->n; i++) {
        const struct jj_symbol *y = &f->scope->v[i];
        f->v[i] = (struct jj_val){.kind = JJ_MISSING};
        if (y->load == JJ_LOAD_CONTEXT) f->v[i] = from_context(run, y->name);
        if (y->load == JJ_LOAD_OUTER) f->v[i] = from_outer(run->j, f->up, y->name);
    }
}

struct jj_frame *jj_frame_new(struct jj_run *run, const struct jj_scope *scope,
                              struct jj_frame *up) {
    struct jj_frame *f = jj_alloc(run->j, sizeof *f);
    *f =
        (struct jj_frame){.up = up, .scope = scope, .v = jj_alloc(run->j, scope->n * sizeof *f->v)};
    fill_frame(run, f);
    return f;
}

static void set_own(struct jj *j, struct jj_frame *f, const struct jj_str *name, struct jj_val v) {
    jj_spend(j, f->scope->n / 64);
    int64_t i = jj_scope_find(f->scope, name);
    assert(i >= 0);
    f->v[i] = v;
}

static struct jj_val *place(struct jj_frame *f, const struct jj_node *n) {
    for (uint32_t up = n->up; up; up--) f = f->up;
    assert(f->scope->v[n->slot].name == n->name);
    return &f->v[n->slot];
}

/* --- expressions ------------------------------------------------------------------------------ */

static struct jj_val eval(struct jj_run *run, struct jj_frame *f, const struct jj_node *n);

static void push_star(struct jj_run *run, struct jj_list *pos, struct jj_val star) {
    struct jj_iter *it = jj_iter(run->j, star);
    for (struct jj_val v; jj_next(run->j, it, &v);) jj_list_push(run->j, pos, v);
}

/* Arguments of a call; extra_caller, if given, is one more keyword. */
static struct jj_args eval_args(struct jj_run *run, struct jj_frame *f,
                                const struct jj_call_args *args, const struct jj_kw *extra) {
    struct jj *j = run->j;
    struct jj_args out = {0};
    if (!args) return out;
    struct jj_list *pos = jj_list_new(j, args->n_pos);
    for (uint32_t i = 0; i < args->n_pos; i++) jj_list_push(j, pos, eval(run, f, args->pos[i]));
    uint32_t n_kw = args->n_kw + (extra != NULL);
    struct jj_val more = {.kind = JJ_MISSING};
    struct jj_kw *kw = n_kw ? jj_alloc(j, n_kw * sizeof *kw) : NULL;
    for (uint32_t i = 0; i < args->n_kw; i++)
        kw[i] = (struct jj_kw){.name = args->kw[i].name, .val = eval(run, f, args->kw[i].value)};
    if (extra) kw[args->n_kw] = *extra;
    if (args->star) push_star(run, pos, eval(run, f, args->star));
    if (args->star_star) {
        more = eval(run, f, args->star_star);
        if (more.kind != JJ_DICT)
            jj_fail(j, ST_INVALID, "argument after ** must be a mapping, not %s", jj_type(more));
        struct jj_kw *all = jj_alloc(j, (n_kw + more.dict->len) * sizeof *all);
        if (n_kw) memcpy(all, kw, n_kw * sizeof *all);
        for (uint32_t i = 0; i < more.dict->len; i++) {
            const struct jj_str *name = jj_want_str(j, more.dict->v[i].key, "keywords");
            jj_spend(j, n_kw / 64);
            for (uint32_t k = 0; k < n_kw; k++)
                if (jj_str_eq(all[k].name, name))
                    jj_fail(j, ST_INVALID, "two values for keyword argument '%.*s'", (int)name->len,
                            name->p);
            all[n_kw + i] = (struct jj_kw){.name = name, .val = more.dict->v[i].val};
        }
        kw = all;
        n_kw += more.dict->len;
    }
    return (struct jj_args){.pos = pos->v, .n = pos->len, .kw = kw, .n_kw = n_kw};
}

static struct jj_val eval_builtin(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                                  struct jj_val self) {
    struct jj *j = run->j;
    struct jj_args args = eval_args(run, f, n->args, NULL);
    j->line = n->line;
    if (!n->builtin)
        jj_fail(j, ST_UNSUPPORTED, "no %s named '%.*s'", n->kind == JJ_N_FILTER ? "filter" : "test",
                (int)n->name->len, n->name->p);
    return jj_call_builtin(j, n->builtin, self, &args);
}

/* A chain of filters whose first has nothing before it: the head of a filter or set block. */
static struct jj_val eval_chain(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                                struct jj_val head) {
    jj_enter(run->j);
    struct jj_val v = eval_builtin(run, f, n, n->a ? eval_chain(run, f, n->a, head) : head);
    jj_leave(run->j);
    return v;
}

static struct jj_val eval_sequence(struct jj_run *run, struct jj_frame *f,
                                   const struct jj_node *n) {
    struct jj_list *l = jj_list_new(run->j, n->n);
    for (uint32_t i = 0; i < n->n; i++) jj_list_push(run->j, l, eval(run, f, n->list[i]));
    return n->kind == JJ_N_LIST ? jj_listv(l) : jj_tuplev(l);
}

static struct jj_val eval_dict(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_dict *d = jj_dict_new(run->j);
    for (uint32_t i = 0; i < n->n; i++) {
        struct jj_val key = eval(run, f, n->list[i]);
        jj_dict_set(run->j, d, key, eval(run, f, n->list2[i]));
    }
    return jj_dictv(d);
}

static struct jj_val eval_concat(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    const struct jj_str *s = jj_to_str(run->j, eval(run, f, n->list[0]));
    for (uint32_t i = 1; i < n->n; i++)
        s = jj_concat(run->j, s, jj_to_str(run->j, eval(run, f, n->list[i])));
    return jj_strv(s);
}

static struct jj_val eval_compare(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_val left = eval(run, f, n->a);
    for (uint32_t i = 0; i < n->n; i++) {
        struct jj_val right = eval(run, f, n->list[i]->a);
        run->j->line = n->line;
        if (!jj_compare(run->j, n->list[i]->op, left, right)) return jj_bool(false);
        left = right;
    }
    return jj_bool(true);
}

static struct jj_val eval_cond(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    if (jj_true(eval(run, f, n->a))) return eval(run, f, n->b);
    if (n->c) return eval(run, f, n->c);
    return jj_undef_hint(run->j, "an inline if without else was false and is used");
}

static struct jj_val eval_slice(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_val of = eval(run, f, n->a);
    struct jj_val start = n->b ? eval(run, f, n->b) : jj_none(),
                  stop = n->c ? eval(run, f, n->c) : jj_none();
    struct jj_val step = n->list[0] ? eval(run, f, n->list[0]) : jj_none();
    run->j->line = n->line;
    return jj_slice(run->j, of, start, stop, step);
}

static struct jj_val eval_call(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                               const struct jj_kw *extra) {
    struct jj_val callee = eval(run, f, n->a);
    struct jj_args args = eval_args(run, f, n->args, extra);
    run->j->line = n->line;
    return jj_call(run->j, callee, &args);
}

static struct jj_val eval_name(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_val v = *place(f, n);
    return v.kind == JJ_MISSING ? jj_undef_name(run->j, n->name) : v;
}

static struct jj_val eval_op(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_val a = eval(run, f, n->a), b = n->b ? eval(run, f, n->b) : jj_none();
    run->j->line = n->line;
    switch (n->kind) {
    case JJ_N_UNARY: return jj_unary(run->j, n->op, a);
    case JJ_N_ATTR: return jj_getattr(run->j, a, n->name);
    case JJ_N_ITEM: return jj_getitem(run->j, a, b);
    default: return jj_binary(run->j, n->op, a, b);
    }
}

static struct jj_val eval(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj *j = run->j;
    struct jj_val v;
    jj_spend(j, 1);
    jj_enter(j);
    j->line = n->line;
    switch (n->kind) {
    case JJ_N_CONST: v = n->value; break;
    case JJ_N_NAME: v = eval_name(run, f, n); break;
    case JJ_N_TUPLE:
    case JJ_N_LIST: v = eval_sequence(run, f, n); break;
    case JJ_N_DICT: v = eval_dict(run, f, n); break;
    case JJ_N_NOT: v = jj_bool(!jj_true(eval(run, f, n->a))); break;
    case JJ_N_AND:
        v = eval(run, f, n->a);
        if (jj_true(v)) v = eval(run, f, n->b);
        break;
    case JJ_N_OR:
        v = eval(run, f, n->a);
        if (!jj_true(v)) v = eval(run, f, n->b);
        break;
    case JJ_N_UNARY:
    case JJ_N_BINARY:
    case JJ_N_ATTR:
    case JJ_N_ITEM: v = eval_op(run, f, n); break;
    case JJ_N_CONCAT: v = eval_concat(run, f, n); break;
    case JJ_N_COMPARE: v = eval_compare(run, f, n); break;
    case JJ_N_COND: v = eval_cond(run, f, n); break;
    case JJ_N_SLICE: v = eval_slice(run, f, n); break;
    case JJ_N_CALL: v = eval_call(run, f, n, NULL); break;
    case JJ_N_FILTER:
    case JJ_N_TEST: v = eval_builtin(run, f, n, eval(run, f, n->a)); break;
    default: assert(0 && "an expression"); v = jj_none();
    }
    jj_leave(j);
    return v;
}

/* --- calls ------------------------------------------------------------------------------------ */

struct jj_macro {
    struct jj_run *run;
    const struct jj_node *node;
    struct jj_frame *closure;
};

static struct jj_val macro_value(struct jj_run *run, const struct jj_node *n, struct jj_frame *f) {
    struct jj_macro *m = jj_alloc(run->j, sizeof *m);
    *m = (struct jj_macro){.run = run, .node = n, .closure = f};
    return (struct jj_val){.kind = JJ_MACRO, .macro = m};
}

void jj_put_macro_repr(struct jj_sb *b, const struct jj_macro *m) {
    jj_sb_lit(b, "<Macro ");
    if (m->node->name)
        jj_put_repr(b, jj_strv(m->node->name));
    else
        jj_sb_lit(b, "anonymous");
    jj_sb_lit(b, ">");
}

static struct jj_val take_kw(struct jj *j, struct jj_kw *kw, uint32_t *n,
                             const struct jj_str *name) {
    jj_spend(j, *n / 64);
    for (uint32_t i = 0; i < *n; i++)
        if (jj_str_eq(kw[i].name, name)) {
            struct jj_val v = kw[i].val;
            memmove(kw + i, kw + i + 1, (--*n - i) * sizeof *kw);
            return v;
        }
    return (struct jj_val){.kind = JJ_MISSING};
}

static void bind_special(struct jj *j, const struct jj_macro *m, struct jj_frame *f,
                         struct jj_args *args) {
    const struct jj_node *n = m->node;
    const struct jj_str *name = n->name ? n->name : jj_str_lit(j, "anonymous"),
                        *caller = jj_str_lit(j, "caller");
    bool own_caller = false;
    for (uint32_t i = 0; i < n->n; i++) own_caller |= jj_str_eq(n->list[i]->name, caller);
    for (uint32_t i = 0; i < f->scope->n; i++) {
        const struct jj_str *s = f->scope->v[i].name;
        if (n->wants_caller && !own_caller && jj_str_is(s, "caller")) {
            struct jj_val v = take_kw(j, args->kw, &args->n_kw, s);
            f->v[i] = jj_given(v) && v.kind != JJ_NONE ? v : jj_undef_hint(j, "No caller defined");
        }
    }
    struct jj_dict *kwargs = jj_dict_new(j);
    for (uint32_t i = 0; i < args->n_kw; i++)
        jj_dict_set(j, kwargs, jj_strv(args->kw[i].name), args->kw[i].val);
    if (!n->wants_kwargs && kwargs->len) {
        const struct jj_str *k = args->kw[0].name;
        jj_fail(j, ST_INVALID, "macro '%.*s' takes no keyword argument '%.*s'", (int)name->len,
                name->p, (int)k->len, k->p);
    }
    struct jj_list *rest = jj_list_new(j, 0);
    for (uint32_t i = n->n; i < args->n; i++) jj_list_push(j, rest, args->pos[i]);
    if (!n->wants_varargs && rest->len)
        jj_fail(j, ST_INVALID, "macro '%.*s' takes not more than %u arguments", (int)name->len,
                name->p, n->n);
    for (uint32_t i = 0; i < f->scope->n; i++) {
        const struct jj_str *s = f->scope->v[i].name;
        if (n->wants_kwargs && jj_str_is(s, "kwargs")) f->v[i] = jj_dictv(kwargs);
        if (n->wants_varargs && jj_str_is(s, "varargs")) f->v[i] = jj_tuplev(rest);
    }
}

static struct jj_val call_macro(struct jj *j, const struct jj_macro *m,
                                const struct jj_args *given) {
    struct jj_run *run = m->run;
    const struct jj_node *n = m->node;
    struct jj_frame *f = jj_frame_new(run, n->scope, m->closure);
    struct jj_args args = *given;
    args.kw = jj_alloc(j, args.n_kw * sizeof *args.kw);
    if (args.n_kw) memcpy(args.kw, given->kw, args.n_kw * sizeof *args.kw);
    for (uint32_t i = 0; i < n->n; i++) {
        struct jj_val v =
            i < args.n ? args.pos[i] : take_kw(j, args.kw, &args.n_kw, n->list[i]->name);
        *place(f, n->list[i]) = v;
    }
    bind_special(j, m, f, &args);
    for (uint32_t i = 0; i < n->n; i++) {
        struct jj_val *v = place(f, n->list[i]);
        if (jj_given(*v)) continue;
        uint32_t without = n->n - n->n2;
        if (i >= without) {
            struct jj_val d = eval(run, f, n->list2[i - without]);
            *place(f, n->list[i]) = d;
        } else {
            char hint[160];
            int len = n->list[i]->name->len > 80 ? 80 : (int)n->list[i]->name->len;
            snprintf(hint, sizeof hint, "parameter '%.*s' was not provided", len,
                     n->list[i]->name->p);
            *v = jj_undef_hint(j, jj_cstr(j, jj_str_lit(j, hint)));
        }
    }
    struct jj_sb b = {.j = j}, *before = run->out;
    run->out = &b;
    jj_exec(run, f, n->b);
    run->out = before;
    return jj_strv(jj_sb_done(&b));
}

struct jj_val jj_call(struct jj *j, struct jj_val callee, const struct jj_args *args) {
    struct jj_val v;
    jj_enter(j);
    switch ((enum jj_kind)callee.kind) {
    case JJ_UNDEF: jj_fail_undef(j, callee);
    case JJ_MACRO: v = call_macro(j, callee.macro, args); break;
    case JJ_GLOBAL: v = jj_call_builtin(j, &callee.global->f, jj_none(), args); break;
    case JJ_METHOD: v = jj_call_builtin(j, callee.method->f, callee.method->self, args); break;
    case JJ_LOOP: v = jj_loop_call(j, callee.loop, args); break;
    default: jj_fail(j, ST_INVALID, "'%s' object is not callable", jj_type(callee));
    }
    jj_leave(j);
    return v;
}

/* --- statements ------------------------------------------------------------------------------- */

static void assign(struct jj_run *run, struct jj_frame *f, const struct jj_node *target,
                   struct jj_val v) {
    struct jj *j = run->j;
    if (target->kind == JJ_N_NAME) {
        set_own(j, f, target->name, v);
    } else if (target->kind == JJ_N_NSREF) {
        struct jj_val ns = *place(f, target);
        if (ns.kind != JJ_NAMESPACE)
            jj_fail(j, ST_INVALID, "cannot assign attribute on non-namespace object");
        if (target->attr->p[0] == '_')
            jj_fail(j, ST_INVALID, "namespace: an attribute must not begin with an underscore");
        jj_dict_set(j, ns.dict, jj_strv(target->attr), v);
    } else {
        struct jj_list *l = jj_to_list(j, v);
        if (l->len != target->n)
            jj_fail(j, ST_INVALID, "found %u values to unpack, expected %u", l->len, target->n);
        for (uint32_t i = 0; i < l->len; i++) assign(run, f, target->list[i], l->v[i]);
    }
}

/* Runs a body with its output caught. */
static struct jj_val capture(struct jj_run *run, struct jj_frame *f, const struct jj_node *body,
                             enum jj_flow *flow) {
    struct jj_sb b = {.j = run->j}, *before = run->out;
    run->out = &b;
    *flow = jj_exec(run, f, body);
    run->out = before;
    return jj_strv(jj_sb_done(&b));
}

static enum jj_flow exec_set_block(struct jj_run *run, struct jj_frame *f,
                                   const struct jj_node *n) {
    enum jj_flow flow;
    struct jj_frame *inner = jj_frame_new(run, n->scope, f);
    struct jj_val text = capture(run, inner, n->b, &flow);
    if (flow != JJ_GO_ON) return flow;
    if (n->c) text = eval_chain(run, inner, n->c, text);
    assign(run, f, n->a, text);
    return flow;
}

static enum jj_flow exec_filter_block(struct jj_run *run, struct jj_frame *f,
                                      const struct jj_node *n) {
    enum jj_flow flow;
    struct jj_frame *inner = jj_frame_new(run, n->scope, f);
    struct jj_val text = capture(run, inner, n->b, &flow);
    if (flow == JJ_GO_ON) jj_put_str(run->out, eval_chain(run, inner, n->a, text));
    return flow;
}

static enum jj_flow exec_if(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    for (uint32_t i = 0; i < n->n; i++)
        if (jj_true(eval(run, f, n->list[i]))) return jj_exec(run, f, n->list2[i]);
    return n->n2 > n->n ? jj_exec(run, f, n->list2[n->n]) : JJ_GO_ON;
}

static enum jj_flow exec_with(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj_frame *inner = jj_frame_new(run, n->scope, f);
    for (uint32_t i = 0; i < n->n; i++) assign(run, inner, n->list[i], eval(run, f, n->list2[i]));
    return jj_exec(run, inner, n->b);
}

/* Elements that pass the "if" of a for, tested when they are asked for. */
struct tested {
    struct jj_run *run;
    struct jj_frame *frame;
    const struct jj_node *node;
    struct jj_iter *in;
};
static bool next_tested(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct tested *t = it->ctx;
    while (jj_next(j, t->in, out)) {
        assign(t->run, t->frame, t->node->a, *out);
        if (jj_true(eval(t->run, t->frame, t->node->c))) return true;
    }
    return false;
}

static struct jj_val only_tested(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                                 struct jj_val seq) {
    struct tested *t = jj_alloc(run->j, sizeof *t);
    *t = (struct tested){.run = run,
                         .frame = jj_frame_new(run, n->test_scope, f),
                         .node = n,
                         .in = jj_iter(run->j, seq)};
    struct jj_iter *it = jj_alloc(run->j, sizeof *it);
    *it = (struct jj_iter){.next = next_tested, .ctx = t};
    return jj_iterv(it);
}

enum jj_flow jj_exec_for(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                         struct jj_val seq, uint32_t depth0) {
    struct jj *j = run->j;
    if (n->c) seq = only_tested(run, f, n, seq);
    struct jj_loop *loop = jj_loop_new(run, f, n, seq, depth0);
    struct jj_frame *inner = jj_frame_new(run, n->scope, f);
    const struct jj_str *name = n->scope->v[0].name;
    assert(jj_str_is(name, "loop"));
    bool any = false;
    for (struct jj_val v; jj_loop_next(j, loop, &v);) {
        j->line = n->line;
        fill_frame(run, inner);
        inner->v[0] = (struct jj_val){.kind = JJ_LOOP, .loop = loop};
        assign(run, inner, n->a, v);
        enum jj_flow flow = jj_exec(run, inner, n->list[0]);
        if (flow == JJ_BREAK) break;
        any |= flow == JJ_GO_ON; /* to Jinja, a round that ended early was none */
    }
    if (any || n->n < 2) return JJ_GO_ON;
    return jj_exec(run, jj_frame_new(run, n->else_scope, f), n->list[1]);
}

static enum jj_flow exec_one(struct jj_run *run, struct jj_frame *f, const struct jj_node *n) {
    struct jj *j = run->j;
    switch (n->kind) {
    case JJ_N_DATA: jj_sb_str(run->out, n->value.s); return JJ_GO_ON;
    case JJ_N_PRINT: {
        struct jj_val v = eval(run, f, n->a);
        j->line = n->line;
        jj_put_str(run->out, v);
        return JJ_GO_ON;
    }
    case JJ_N_SET: {
        struct jj_val v = eval(run, f, n->b);
        j->line = n->line;
        assign(run, f, n->a, v);
        return JJ_GO_ON;
    }
    case JJ_N_SET_BLOCK: return exec_set_block(run, f, n);
    case JJ_N_FOR: return jj_exec_for(run, f, n, eval(run, f, n->b), 0);
    case JJ_N_IF: return exec_if(run, f, n);
    case JJ_N_MACRO: set_own(j, f, n->name, macro_value(run, n, f)); return JJ_GO_ON;
    case JJ_N_CALL_BLOCK: {
        struct jj_kw caller = {.name = jj_str_lit(j, "caller"), .val = macro_value(run, n->b, f)};
        jj_put_str(run->out, eval_call(run, f, n->a, &caller));
        return JJ_GO_ON;
    }
    case JJ_N_GENERATION:
        jj_put_str(run->out, jj_call(j, macro_value(run, n->b, f), &(struct jj_args){0}));
        return JJ_GO_ON;
    case JJ_N_FILTER_BLOCK: return exec_filter_block(run, f, n);
    case JJ_N_WITH: return exec_with(run, f, n);
    case JJ_N_BREAK: return JJ_BREAK;
    case JJ_N_CONTINUE: return JJ_CONTINUE;
    default: return jj_exec(run, f, n);
    }
}

enum jj_flow jj_exec(struct jj_run *run, struct jj_frame *f, const struct jj_node *body) {
    struct jj *j = run->j;
    assert(body->kind == JJ_N_BODY);
    jj_enter(j);
    enum jj_flow flow = JJ_GO_ON;
    for (uint32_t i = 0; i < body->n && flow == JJ_GO_ON; i++) {
        jj_spend(j, 1);
        j->line = body->list[i]->line;
        flow = exec_one(run, f, body->list[i]);
    }
    jj_leave(j);
    return flow;
}

const struct jj_str *jj_render(struct jj *j, const struct jj_node *root,
                               const struct jj_scope *scope, const struct jj_dict *context) {
    struct jj_sb out = {.j = j};
    struct jj_run run = {.j = j, .context = context, .out = &out};
    jj_exec(&run, jj_frame_new(&run, scope, NULL), root);
    return jj_sb_done(&out);
}
