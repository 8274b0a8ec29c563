/* SPDX-License-Identifier: Apache-2.0 */
/* Implements jinja_scope.h in Jinja's two passes. track() walks the statements of one frame,
 * stopping where an inner frame begins, and records what is read and what is assigned in which
 * order; branches of an if are tracked on copies and merged. resolve() then goes over the finished
 * frame, gives every name its place, and opens the inner frames. */
#include "text/jinja_scope.h"

#include <assert.h>
#include <string.h>

#include "text/jinja_builtins.h"

struct resolver {
    struct jj *j;
    struct jj_names *names;
    const struct jj_str *loop, *caller, *kwargs, *varargs;
};

/* --- symbols ---------------------------------------------------------------------------------- */

int64_t jj_scope_find(const struct jj_scope *s, const struct jj_str *name) {
    for (uint32_t i = 0; i < s->n; i++)
        if (s->v[i].name == name) return i;
    return -1;
}

static struct jj_symbol *find(struct resolver *r, struct jj_scope *s, const struct jj_str *name) {
    jj_spend(r->j, s->n / 64 + 1);
    int64_t i = jj_scope_find(s, name);
    return i < 0 ? NULL : &s->v[i];
}

static bool known(struct resolver *r, struct jj_scope *s, const struct jj_str *name) {
    for (; s; s = s->up)
        if (find(r, s, name)) return true;
    return false;
}

static struct jj_symbol *define(struct resolver *r, struct jj_scope *s, const struct jj_str *name,
                                enum jj_load load) {
    struct jj_symbol *y = find(r, s, name);
    if (!y) {
        if (s->n == s->cap) {
            uint32_t cap = s->cap ? s->cap * 2 : 4;
            s->v = jj_grow(r->j, s->v, s->cap * sizeof *s->v, cap * sizeof *s->v);
            s->cap = cap;
        }
        y = &s->v[s->n++];
        *y = (struct jj_symbol){.name = name};
    }
    y->load = load;
    return y;
}

static void load(struct resolver *r, struct jj_scope *s, const struct jj_str *name) {
    if (!known(r, s, name)) define(r, s, name, JJ_LOAD_CONTEXT);
}

static void store(struct resolver *r, struct jj_scope *s, const struct jj_str *name) {
    struct jj_symbol *y = find(r, s, name);
    if (!y)
        y = define(r, s, name, s->up && known(r, s->up, name) ? JJ_LOAD_OUTER : JJ_LOAD_MISSING);
    y->stored = true;
}

static void param(struct resolver *r, struct jj_scope *s, const struct jj_str *name) {
    define(r, s, name, JJ_LOAD_PARAM)->stored = true;
}

static struct jj_scope copy_scope(struct resolver *r, const struct jj_scope *s) {
    struct jj_scope c = {.up = s->up, .n = s->n, .cap = s->n};
    c.v = s->n ? jj_alloc(r->j, s->n * sizeof *s->v) : NULL;
    if (s->n) memcpy(c.v, s->v, s->n * sizeof *s->v);
    return c;
}

/* A name that only some branches assign keeps its outer value in the others. */
static void merge_branches(struct resolver *r, struct jj_scope *s, struct jj_scope *branch,
                           uint32_t n) {
    struct jj_scope before = copy_scope(r, s);
    for (uint32_t b = 0; b < n; b++)
        for (uint32_t i = 0; i < branch[b].n; i++) {
            const struct jj_symbol *from = &branch[b].v[i];
            define(r, s, from->name, from->load)->stored |= from->stored;
        }
    for (uint32_t i = 0; i < s->n; i++) {
        struct jj_symbol *y = &s->v[i], *was = find(r, &before, y->name);
        if (!y->stored || (was && was->stored)) continue;
        y->load = s->up && known(r, s->up, y->name) ? JJ_LOAD_OUTER : JJ_LOAD_CONTEXT;
    }
}

/* --- pass one: one frame ---------------------------------------------------------------------- */

static void track(struct resolver *r, struct jj_scope *s, const struct jj_node *n);

static void track_all(struct resolver *r, struct jj_scope *s, struct jj_node *const *v,
                      uint32_t n) {
    for (uint32_t i = 0; i < n; i++) track(r, s, v[i]);
}

static void track_args(struct resolver *r, struct jj_scope *s, const struct jj_call_args *args) {
    if (!args) return;
    track_all(r, s, args->pos, args->n_pos);
    for (uint32_t i = 0; i < args->n_kw; i++) track(r, s, args->kw[i].value);
    track(r, s, args->star);
    track(r, s, args->star_star);
}

static void track_target(struct resolver *r, struct jj_scope *s, const struct jj_node *n,
                         bool as_param) {
    if (n->kind == JJ_N_TUPLE)
        for (uint32_t i = 0; i < n->n; i++) track_target(r, s, n->list[i], as_param);
    else if (n->kind == JJ_N_NSREF)
        load(r, s, n->name);
    else if (as_param)
        param(r, s, n->name);
    else
        store(r, s, n->name);
}

/* An elif is, to Jinja, an if of its own that stands in one branch; its branches merge into that
 * one first. */
static void track_if(struct resolver *r, struct jj_scope *s, const struct jj_node *n) {
    struct jj_scope branch[3];
    track(r, s, n->list[0]);
    for (int i = 0; i < 3; i++) branch[i] = copy_scope(r, s);
    track(r, &branch[0], n->list2[0]);
    for (uint32_t i = 1; i < n->n; i++) {
        track(r, &branch[1], n->list[i]);
        struct jj_scope inner = copy_scope(r, &branch[1]);
        track(r, &inner, n->list2[i]);
        merge_branches(r, &branch[1], &inner, 1);
    }
    if (n->n2 > n->n) track(r, &branch[2], n->list2[n->n]);
    merge_branches(r, s, branch, 3);
}

static void track(struct resolver *r, struct jj_scope *s, const struct jj_node *n) {
    if (!n) return;
    jj_enter(r->j);
    r->j->line = n->line;
    switch (n->kind) {
    case JJ_N_NAME: load(r, s, n->name); break;
    case JJ_N_SET:
        track(r, s, n->b);
        track_target(r, s, n->a, false);
        break;
    case JJ_N_SET_BLOCK: track_target(r, s, n->a, false); break;
    case JJ_N_FOR: track(r, s, n->b); break;
    case JJ_N_IF: track_if(r, s, n); break;
    case JJ_N_MACRO: store(r, s, n->name); break;
    case JJ_N_CALL_BLOCK:
    case JJ_N_FILTER_BLOCK: track(r, s, n->a); break;
    case JJ_N_WITH: track_all(r, s, n->list2, n->n2); break;
    case JJ_N_GENERATION:
    case JJ_N_CONST:
    case JJ_N_DATA:
    case JJ_N_NSREF:
    case JJ_N_BREAK:
    case JJ_N_CONTINUE: break;
    default:
        track(r, s, n->a);
        track(r, s, n->b);
        track(r, s, n->c);
        track_all(r, s, n->list, n->n);
        track_all(r, s, n->list2, n->n2);
        track_args(r, s, n->args);
    }
    jj_leave(r->j);
}

/* --- pass two: places and inner frames -------------------------------------------------------- */

struct where {
    struct jj_scope *scope;
    bool soft;    /* in an if or inline if: unknown filters fail when they are reached */
    bool in_loop; /* break and continue have a loop to go to */
    bool in_for;  /* anywhere in a for: "loop" is not assignable */
};

static void resolve(struct resolver *r, struct where w, struct jj_node *n);

static void resolve_all(struct resolver *r, struct where w, struct jj_node **v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) resolve(r, w, v[i]);
}

static void resolve_args(struct resolver *r, struct where w, struct jj_call_args *args) {
    if (!args) return;
    resolve_all(r, w, args->pos, args->n_pos);
    for (uint32_t i = 0; i < args->n_kw; i++) resolve(r, w, args->kw[i].value);
    resolve(r, w, args->star);
    resolve(r, w, args->star_star);
}

static void resolve_name(struct resolver *r, struct where w, struct jj_node *n) {
    n->up = 0;
    for (struct jj_scope *s = w.scope; s; s = s->up, n->up++) {
        struct jj_symbol *y = find(r, s, n->name);
        if (!y) continue;
        n->slot = (uint32_t)(y - s->v);
        return;
    }
    assert(0 && "every name was tracked");
}

static void resolve_target(struct resolver *r, struct where w, struct jj_node *n) {
    if (n->kind == JJ_N_TUPLE) {
        for (uint32_t i = 0; i < n->n; i++) resolve_target(r, w, n->list[i]);
        return;
    }
    if (n->kind == JJ_N_NAME && n->name == r->loop && w.in_for) {
        r->j->line = n->line;
        jj_fail(r->j, ST_INVALID, "cannot assign to the special variable 'loop' in a for");
    }
    resolve_name(r, w, n);
}

static struct jj_scope *inner_scope(struct resolver *r, struct where *w) {
    struct jj_scope *s = jj_alloc(r->j, sizeof *s);
    *s = (struct jj_scope){.up = w->scope};
    w->scope = s;
    w->soft = false;
    return s;
}

static void resolve_for(struct resolver *r, struct where w, struct jj_node *n) {
    resolve(r, w, n->b);
    struct where test = w, body = w, other = w;
    body.in_loop = body.in_for = test.in_for = other.in_for = true;
    n->scope = inner_scope(r, &body);
    param(r, n->scope, r->loop);
    track_target(r, n->scope, n->a, true);
    track(r, n->scope, n->list[0]);
    resolve_target(r, body, n->a);
    resolve(r, body, n->list[0]);
    if (n->c) {
        n->test_scope = inner_scope(r, &test);
        track_target(r, n->test_scope, n->a, true);
        track(r, n->test_scope, n->c);
        resolve(r, test, n->c);
    }
    if (n->n > 1) {
        n->else_scope = inner_scope(r, &other);
        track(r, n->else_scope, n->list[1]);
        resolve(r, other, n->list[1]);
    }
}

/* Whether a tree reads caller, kwargs or varargs before it assigns them (compiler.find_undeclared).
 */
struct specials {
    bool caller, kwargs, varargs, no_caller, no_kwargs, no_varargs;
};
static void find_specials(struct resolver *r, struct specials *f, const struct jj_node *n,
                          bool is_target) {
    if (!n) return;
    jj_enter(r->j);
    jj_spend(r->j, 1);
    if (n->kind == JJ_N_NAME) {
        if (n->name == r->caller) is_target ? (f->no_caller = true) : (f->caller |= !f->no_caller);
        if (n->name == r->kwargs) is_target ? (f->no_kwargs = true) : (f->kwargs |= !f->no_kwargs);
        if (n->name == r->varargs)
            is_target ? (f->no_varargs = true) : (f->varargs |= !f->no_varargs);
    }
    bool assigns = n->kind == JJ_N_SET || n->kind == JJ_N_SET_BLOCK || n->kind == JJ_N_FOR;
    bool binds =
        n->kind == JJ_N_MACRO || n->kind == JJ_N_WITH || (is_target && n->kind == JJ_N_TUPLE);
    find_specials(r, f, n->a, assigns);
    for (uint32_t i = 0; i < n->n; i++) find_specials(r, f, n->list[i], binds);
    for (uint32_t i = 0; i < n->n2; i++) find_specials(r, f, n->list2[i], false);
    find_specials(r, f, n->b, false);
    find_specials(r, f, n->c, false);
    if (n->args) {
        for (uint32_t i = 0; i < n->args->n_pos; i++) find_specials(r, f, n->args->pos[i], false);
        for (uint32_t i = 0; i < n->args->n_kw; i++)
            find_specials(r, f, n->args->kw[i].value, false);
        find_specials(r, f, n->args->star, false);
        find_specials(r, f, n->args->star_star, false);
    }
    jj_leave(r->j);
}

static bool has_param(const struct jj_node *macro, const struct jj_str *name) {
    for (uint32_t i = 0; i < macro->n; i++)
        if (macro->list[i]->name == name) return true;
    return false;
}

static void resolve_macro(struct resolver *r, struct where w, struct jj_node *n) {
    struct jj_scope *s = n->scope = inner_scope(r, &w);
    w.in_loop = false;
    struct specials f = {0};
    find_specials(r, &f, n->b, false);
    for (uint32_t i = 0; i < n->n; i++) param(r, s, n->list[i]->name);
    bool own_caller = has_param(n, r->caller);
    if (f.caller && own_caller && n->list[n->n - 1]->name != r->caller && !n->n2)
        jj_fail(r->j, ST_INVALID, "a macro's parameter 'caller' needs a default");
    n->wants_caller = f.caller;
    n->wants_kwargs = f.kwargs && !has_param(n, r->kwargs);
    n->wants_varargs = f.varargs && !has_param(n, r->varargs);
    if (n->wants_caller && !own_caller) param(r, s, r->caller);
    if (n->wants_kwargs) param(r, s, r->kwargs);
    if (n->wants_varargs) param(r, s, r->varargs);
    track_all(r, s, n->list2, n->n2);
    track(r, s, n->b);
    for (uint32_t i = 0; i < n->n; i++) resolve_name(r, w, n->list[i]);
    resolve_all(r, w, n->list2, n->n2);
    resolve(r, w, n->b);
}

static void resolve_with(struct resolver *r, struct where w, struct jj_node *n) {
    resolve_all(r, w, n->list2, n->n2);
    n->scope = inner_scope(r, &w);
    for (uint32_t i = 0; i < n->n; i++) track_target(r, n->scope, n->list[i], true);
    track(r, n->scope, n->b);
    w.in_for = false; /* with may bind "loop" */
    for (uint32_t i = 0; i < n->n; i++) resolve_target(r, w, n->list[i]);
    resolve(r, w, n->b);
}

static void resolve_builtin(struct resolver *r, struct where w, struct jj_node *n) {
    bool filter = n->kind == JJ_N_FILTER;
    n->builtin = filter ? jj_filter_find(n->name) : jj_test_find(n->name);
    if (!n->builtin && !w.soft)
        jj_fail(r->j, ST_UNSUPPORTED, "no %s named '%.*s'", filter ? "filter" : "test",
                (int)n->name->len, n->name->p);
    resolve(r, w, n->a);
    resolve_args(r, w, n->args);
}

static void resolve(struct resolver *r, struct where w, struct jj_node *n) {
    if (!n) return;
    jj_enter(r->j);
    r->j->line = n->line;
    switch (n->kind) {
    case JJ_N_NAME: resolve_name(r, w, n); break;
    case JJ_N_SET:
        resolve_target(r, w, n->a);
        resolve(r, w, n->b);
        break;
    case JJ_N_SET_BLOCK: {
        struct where in = w;
        n->scope = inner_scope(r, &in);
        track(r, n->scope, n->b);
        track(r, n->scope, n->c);
        resolve(r, in, n->b);
        resolve(r, in, n->c);
        resolve_target(r, w, n->a);
        break;
    }
    case JJ_N_FOR: resolve_for(r, w, n); break;
    case JJ_N_IF:
    case JJ_N_COND: w.soft = true; goto children;
    case JJ_N_MACRO: {
        struct jj_node as_target = *n;
        resolve_name(r, w, &as_target);
        n->up = as_target.up, n->slot = as_target.slot;
        resolve_macro(r, w, n);
        break;
    }
    case JJ_N_CALL_BLOCK:
        resolve(r, w, n->a);
        resolve_macro(r, w, n->b);
        break;
    case JJ_N_GENERATION: resolve_macro(r, w, n->b); break;
    case JJ_N_FILTER_BLOCK:
        n->scope = inner_scope(r, &w);
        track(r, n->scope, n->b);
        track(r, n->scope, n->a);
        goto children;
    case JJ_N_WITH: resolve_with(r, w, n); break;
    case JJ_N_FILTER:
    case JJ_N_TEST: resolve_builtin(r, w, n); break;
    case JJ_N_BREAK:
    case JJ_N_CONTINUE:
        if (!w.in_loop)
            jj_fail(r->j, ST_INVALID, "'%s' outside a loop",
                    n->kind == JJ_N_BREAK ? "break" : "continue");
        break;
    default:
    children:
        resolve(r, w, n->a);
        resolve(r, w, n->b);
        resolve(r, w, n->c);
        resolve_all(r, w, n->list, n->n);
        resolve_all(r, w, n->list2, n->n2);
        resolve_args(r, w, n->args);
    }
    jj_leave(r->j);
}

static const struct jj_str *name(struct resolver *r, const char *text) {
    return jj_intern(r->j, r->names, jj_str_lit(r->j, text));
}

struct jj_scope *jj_resolve(struct jj *j, struct jj_names *names, struct jj_node *root) {
    struct resolver r = {.j = j, .names = names};
    r.loop = name(&r, "loop"), r.caller = name(&r, "caller");
    r.kwargs = name(&r, "kwargs"), r.varargs = name(&r, "varargs");
    struct where w = {0};
    struct jj_scope *s = inner_scope(&r, &w);
    track(&r, s, root);
    resolve(&r, w, root);
    return s;
}
