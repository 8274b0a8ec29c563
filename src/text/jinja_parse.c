/* SPDX-License-Identifier: Apache-2.0 */
/* The parser: recursive descent in the order of jinja2/parser.py, whose precedences differ from
 * Python's here and there (filters bind tighter than unary minus's operand, "~" tighter than "+").
 * Statements that need other templates are refused by name. */
#include <assert.h>
#include <string.h>

#include "text/jinja_ast.h"
#include "text/jinja_lex.h"
#include "text/jinja_text.h"

struct parser {
    struct jj *j;
    struct jj_names *names;
    struct jj_token *t; /* the token in hand */
    uint32_t depth;
};

enum mode { WITH_COND, NO_COND };
static struct jj_node *parse_expr(struct parser *p, enum mode mode);
static struct jj_node *parse_tuple(struct parser *p, enum mode mode, bool parens,
                                   const char *end_name);
static struct jj_node *parse_body(struct parser *p, const char *const *ends, const char **found);

/* --- tokens and nodes ------------------------------------------------------------------------- */

static struct jj_node *node(struct parser *p, enum jj_node_kind kind, uint32_t line) {
    struct jj_node *n = jj_alloc(p->j, sizeof *n);
    *n = (struct jj_node){.kind = kind, .line = line};
    return n;
}

static struct jj_node *node_ab(struct parser *p, enum jj_node_kind kind, uint32_t line,
                               struct jj_node *a, struct jj_node *b) {
    struct jj_node *n = node(p, kind, line);
    n->a = a;
    n->b = b;
    return n;
}

struct nodes {
    struct jj_node **v;
    uint32_t n, cap;
};
static void push(struct parser *p, struct nodes *l, struct jj_node *n) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        l->v = jj_grow(p->j, l->v, l->cap * sizeof *l->v, cap * sizeof *l->v);
        l->cap = cap;
    }
    l->v[l->n++] = n;
}

static _Noreturn void unexpected(struct parser *p, const char *expected) {
    const struct jj_token *t = p->t;
    p->j->line = t->line;
    if (t->type == JJ_T_NAME)
        jj_fail(p->j, ST_INVALID, "found '%.*s', expected %s", (int)t->val.s->len, t->val.s->p,
                expected);
    jj_fail(p->j, ST_INVALID, "found %s, expected %s", jj_tok_name(t->type), expected);
}

static bool at(const struct parser *p, enum jj_tok type) {
    return p->t->type == type;
}
static bool is_name(const struct jj_token *t, const char *name) {
    return t->type == JJ_T_NAME && jj_str_is(t->val.s, name);
}
static bool at_name(const struct parser *p, const char *name) {
    return is_name(p->t, name);
}

static void next(struct parser *p) {
    if (p->t->type != JJ_T_EOF) p->t++;
}
static bool skip(struct parser *p, enum jj_tok type) {
    if (!at(p, type)) return false;
    next(p);
    return true;
}
static bool skip_name(struct parser *p, const char *name) {
    if (!at_name(p, name)) return false;
    next(p);
    return true;
}
static void expect(struct parser *p, enum jj_tok type) {
    if (!skip(p, type)) unexpected(p, jj_tok_name(type));
}

const struct jj_str *jj_intern(struct jj *j, struct jj_names *names, const struct jj_str *s) {
    struct jj_val *v = jj_dict_get_str(j, names->seen, s);
    if (v) return v->s;
    jj_dict_set(j, names->seen, jj_strv(s), jj_strv(s));
    return s;
}

static const struct jj_str *take_name(struct parser *p) {
    if (!at(p, JJ_T_NAME)) unexpected(p, "a name");
    const struct jj_str *s = jj_intern(p->j, p->names, p->t->val.s);
    next(p);
    return s;
}

static void enter(struct parser *p) {
    if (++p->depth > JJ_PARSE_DEPTH_MAX) {
        p->j->line = p->t->line;
        jj_fail(p->j, ST_FULL, "nested more than %d deep", JJ_PARSE_DEPTH_MAX);
    }
}
static void leave(struct parser *p) {
    p->depth--;
}

/* --- primary expressions ---------------------------------------------------------------------- */

static bool constant(const struct jj_str *s, struct jj_val *out) {
    if (jj_str_is(s, "true") || jj_str_is(s, "True"))
        *out = jj_bool(true);
    else if (jj_str_is(s, "false") || jj_str_is(s, "False"))
        *out = jj_bool(false);
    else if (jj_str_is(s, "none") || jj_str_is(s, "None"))
        *out = jj_none();
    else
        return false;
    return true;
}

static struct jj_node *parse_list(struct parser *p) {
    struct jj_node *n = node(p, JJ_N_LIST, p->t->line);
    struct nodes items = {0};
    expect(p, JJ_T_LBRACKET);
    while (!at(p, JJ_T_RBRACKET)) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_RBRACKET)) break;
        push(p, &items, parse_expr(p, WITH_COND));
    }
    next(p);
    n->list = items.v, n->n = items.n;
    return n;
}

static struct jj_node *parse_dict(struct parser *p) {
    struct jj_node *n = node(p, JJ_N_DICT, p->t->line);
    struct nodes keys = {0}, values = {0};
    expect(p, JJ_T_LBRACE);
    while (!at(p, JJ_T_RBRACE)) {
        if (keys.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_RBRACE)) break;
        push(p, &keys, parse_expr(p, WITH_COND));
        expect(p, JJ_T_COLON);
        push(p, &values, parse_expr(p, WITH_COND));
    }
    next(p);
    n->list = keys.v, n->n = keys.n, n->list2 = values.v, n->n2 = values.n;
    return n;
}

static struct jj_node *parse_strings(struct parser *p) {
    struct jj_node *n = node(p, JJ_N_CONST, p->t->line);
    n->value = p->t->val;
    next(p);
    if (!at(p, JJ_T_STRING)) return n;
    struct jj_sb b = {.j = p->j};
    jj_sb_str(&b, n->value.s);
    for (; at(p, JJ_T_STRING); next(p)) jj_sb_str(&b, p->t->val.s);
    n->value = jj_strv(jj_sb_done(&b));
    return n;
}

/* ns_targets: "a.b" is a namespace's attribute to assign to. */
static struct jj_node *parse_primary(struct parser *p, bool ns_targets) {
    uint32_t line = p->t->line;
    switch (p->t->type) {
    case JJ_T_NAME: {
        struct jj_node *n = node(p, JJ_N_NAME, line);
        n->name = take_name(p);
        if (constant(n->name, &n->value))
            n->kind = JJ_N_CONST;
        else if (ns_targets && skip(p, JJ_T_DOT))
            n->kind = JJ_N_NSREF, n->attr = take_name(p);
        return n;
    }
    case JJ_T_STRING: return parse_strings(p);
    case JJ_T_INT:
    case JJ_T_FLOAT: {
        struct jj_node *n = node(p, JJ_N_CONST, line);
        n->value = p->t->val;
        next(p);
        return n;
    }
    case JJ_T_LPAREN: {
        next(p);
        struct jj_node *n = parse_tuple(p, WITH_COND, true, NULL);
        expect(p, JJ_T_RPAREN);
        return n;
    }
    case JJ_T_LBRACKET: return parse_list(p);
    case JJ_T_LBRACE: return parse_dict(p);
    default: unexpected(p, "an expression");
    }
}

/* --- calls, subscripts, filters, tests -------------------------------------------------------- */

static void push_kwarg(struct parser *p, struct jj_call_args *args, uint32_t *cap,
                       struct jj_kwarg kw) {
    for (uint32_t i = 0; i < args->n_kw; i++)
        if (args->kw[i].name == kw.name)
            jj_fail(p->j, ST_INVALID, "keyword argument repeated: %.*s", (int)kw.name->len,
                    kw.name->p);
    if (args->n_kw == *cap) {
        uint32_t to = *cap ? *cap * 2 : 4;
        args->kw = jj_grow(p->j, args->kw, *cap * sizeof *args->kw, to * sizeof *args->kw);
        *cap = to;
    }
    args->kw[args->n_kw++] = kw;
}

static struct jj_call_args *parse_args(struct parser *p) {
    struct jj_call_args *args = jj_alloc(p->j, sizeof *args);
    *args = (struct jj_call_args){0};
    struct nodes pos = {0};
    uint32_t kw_cap = 0;
    bool comma = false;
    expect(p, JJ_T_LPAREN);
    for (; !at(p, JJ_T_RPAREN); comma = true) {
        if (comma) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_RPAREN)) break;
        p->j->line = p->t->line;
        bool ok = true;
        if (skip(p, JJ_T_MUL)) {
            ok = !args->star && !args->star_star;
            args->star = parse_expr(p, WITH_COND);
        } else if (skip(p, JJ_T_POW)) {
            ok = !args->star_star;
            args->star_star = parse_expr(p, WITH_COND);
        } else if (at(p, JJ_T_NAME) && p->t[1].type == JJ_T_ASSIGN) {
            ok = !args->star_star;
            struct jj_kwarg kw = {.name = take_name(p)};
            next(p);
            kw.value = parse_expr(p, WITH_COND);
            push_kwarg(p, args, &kw_cap, kw);
        } else {
            ok = !args->star && !args->star_star && !args->n_kw;
            push(p, &pos, parse_expr(p, WITH_COND));
        }
        if (!ok) jj_fail(p->j, ST_INVALID, "invalid order of arguments in a call");
    }
    next(p);
    args->pos = pos.v, args->n_pos = pos.n;
    return args;
}

static struct jj_node *parse_subscribed(struct parser *p) {
    uint32_t line = p->t->line;
    struct jj_node *part[3] = {0};
    if (!at(p, JJ_T_COLON)) {
        part[0] = parse_expr(p, WITH_COND);
        if (!at(p, JJ_T_COLON)) return part[0];
    }
    for (int i = 1; i < 3 && skip(p, JJ_T_COLON); i++)
        if (!at(p, JJ_T_COLON) && !at(p, JJ_T_RBRACKET) && !at(p, JJ_T_COMMA))
            part[i] = parse_expr(p, WITH_COND);
    struct jj_node *n = node(p, JJ_N_SLICE, line);
    struct nodes step = {0};
    push(p, &step, part[2]);
    n->b = part[0], n->c = part[1], n->list = step.v, n->n = 1;
    return n;
}

static struct jj_node *parse_subscript(struct parser *p, struct jj_node *of) {
    uint32_t line = p->t->line;
    if (skip(p, JJ_T_DOT)) {
        if (at(p, JJ_T_INT)) {
            struct jj_node *n = node_ab(p, JJ_N_ITEM, line, of, parse_primary(p, false));
            return n;
        }
        struct jj_node *n = node_ab(p, JJ_N_ATTR, line, of, NULL);
        n->name = take_name(p);
        return n;
    }
    expect(p, JJ_T_LBRACKET);
    struct nodes parts = {0};
    while (!at(p, JJ_T_RBRACKET)) {
        if (parts.n) expect(p, JJ_T_COMMA);
        push(p, &parts, parse_subscribed(p));
    }
    next(p);
    if (parts.n == 1 && parts.v[0]->kind == JJ_N_SLICE) {
        parts.v[0]->a = of;
        return parts.v[0];
    }
    for (uint32_t i = 0; i < parts.n; i++)
        if (parts.v[i]->kind == JJ_N_SLICE)
            jj_fail(p->j, ST_UNSUPPORTED, "a slice among several subscripts is not supported");
    struct jj_node *arg = parts.n == 1 ? parts.v[0] : node(p, JJ_N_TUPLE, line);
    if (parts.n != 1) arg->list = parts.v, arg->n = parts.n;
    return node_ab(p, JJ_N_ITEM, line, of, arg);
}

static struct jj_node *parse_call(struct parser *p, struct jj_node *of) {
    struct jj_node *n = node_ab(p, JJ_N_CALL, p->t->line, of, NULL);
    n->args = parse_args(p);
    return n;
}

static struct jj_node *parse_postfix(struct parser *p, struct jj_node *n) {
    for (;;) {
        if (at(p, JJ_T_DOT) || at(p, JJ_T_LBRACKET))
            n = parse_subscript(p, n);
        else if (at(p, JJ_T_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

static const struct jj_str *dotted_name(struct parser *p) {
    const struct jj_str *name = take_name(p);
    while (skip(p, JJ_T_DOT)) {
        name = jj_concat(p->j, jj_concat(p->j, name, jj_str_lit(p->j, ".")), take_name(p));
        name = jj_intern(p->j, p->names, name);
    }
    return name;
}

/* What follows a "|", or the head of a filter block. */
static struct jj_node *parse_one_filter(struct parser *p, struct jj_node *of) {
    struct jj_node *n = node_ab(p, JJ_N_FILTER, p->t->line, of, NULL);
    n->name = dotted_name(p);
    if (at(p, JJ_T_LPAREN)) n->args = parse_args(p);
    return n;
}

static struct jj_node *parse_filters(struct parser *p, struct jj_node *n) {
    while (skip(p, JJ_T_PIPE)) n = parse_one_filter(p, n);
    return n;
}

static bool starts_test_arg(const struct parser *p) {
    switch (p->t->type) {
    case JJ_T_NAME: return !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and");
    case JJ_T_STRING:
    case JJ_T_INT:
    case JJ_T_FLOAT:
    case JJ_T_LBRACKET:
    case JJ_T_LBRACE: return true;
    default: return false;
    }
}

static struct jj_node *parse_test(struct parser *p, struct jj_node *of) {
    uint32_t line = p->t->line;
    next(p); /* "is" */
    bool negated = skip_name(p, "not");
    struct jj_node *n = node_ab(p, JJ_N_TEST, line, of, NULL);
    n->name = dotted_name(p);
    if (at(p, JJ_T_LPAREN)) {
        n->args = parse_args(p);
    } else if (starts_test_arg(p)) {
        if (at_name(p, "is")) unexpected(p, "no second test: tests with is do not chain");
        struct nodes pos = {0};
        push(p, &pos, parse_postfix(p, parse_primary(p, false)));
        n->args = jj_alloc(p->j, sizeof *n->args);
        *n->args = (struct jj_call_args){.pos = pos.v, .n_pos = 1};
    }
    return negated ? node_ab(p, JJ_N_NOT, line, n, NULL) : n;
}

static struct jj_node *parse_filter_expr(struct parser *p, struct jj_node *n) {
    for (;;) {
        if (at(p, JJ_T_PIPE))
            n = parse_filters(p, n);
        else if (at_name(p, "is"))
            n = parse_test(p, n);
        else if (at(p, JJ_T_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* --- operators -------------------------------------------------------------------------------- */

static struct jj_node *parse_unary(struct parser *p, bool with_filter) {
    uint32_t line = p->t->line;
    enum jj_tok op = p->t->type;
    struct jj_node *n;
    enter(p);
    if (op == JJ_T_SUB || op == JJ_T_ADD) {
        next(p);
        n = node_ab(p, JJ_N_UNARY, line, parse_unary(p, false), NULL);
        n->op = (int)op;
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filter_expr(p, n);
    leave(p);
    return n;
}

static struct jj_node *binary(struct parser *p, struct jj_node *a,
                              struct jj_node *(*rest)(struct parser *)) {
    uint32_t line = p->t->line;
    enum jj_tok op = p->t->type;
    next(p);
    struct jj_node *n = node_ab(p, JJ_N_BINARY, line, a, rest(p));
    n->op = (int)op;
    return n;
}

static struct jj_node *parse_filtered(struct parser *p) {
    return parse_unary(p, true);
}

static struct jj_node *parse_pow(struct parser *p) {
    struct jj_node *n = parse_unary(p, true);
    while (at(p, JJ_T_POW)) n = binary(p, n, parse_filtered);
    return n;
}

static struct jj_node *parse_product(struct parser *p) {
    struct jj_node *n = parse_pow(p);
    while (at(p, JJ_T_MUL) || at(p, JJ_T_DIV) || at(p, JJ_T_FLOORDIV) || at(p, JJ_T_MOD))
        n = binary(p, n, parse_pow);
    return n;
}

static struct jj_node *parse_concat(struct parser *p) {
    struct jj_node *first = parse_product(p);
    if (!at(p, JJ_T_TILDE)) return first;
    struct jj_node *n = node(p, JJ_N_CONCAT, p->t->line);
    struct nodes parts = {0};
    push(p, &parts, first);
    while (skip(p, JJ_T_TILDE)) push(p, &parts, parse_product(p));
    n->list = parts.v, n->n = parts.n;
    return n;
}

static struct jj_node *parse_sum(struct parser *p) {
    struct jj_node *n = parse_concat(p);
    while (at(p, JJ_T_ADD) || at(p, JJ_T_SUB)) n = binary(p, n, parse_concat);
    return n;
}

static struct jj_node *parse_compare(struct parser *p) {
    struct jj_node *first = parse_sum(p);
    struct nodes ops = {0};
    for (;;) {
        int op = (int)p->t->type;
        uint32_t line = p->t->line;
        if (op >= JJ_T_EQ && op <= JJ_T_LE) {
            next(p);
        } else if (skip_name(p, "in")) {
            op = JJ_OP_IN;
        } else if (at_name(p, "not") && is_name(&p->t[1], "in")) {
            next(p);
            next(p);
            op = JJ_OP_NOT_IN;
        } else {
            break;
        }
        struct jj_node *n = node_ab(p, JJ_N_OPERAND, line, parse_sum(p), NULL);
        n->op = op;
        push(p, &ops, n);
    }
    if (!ops.n) return first;
    struct jj_node *n = node_ab(p, JJ_N_COMPARE, first->line, first, NULL);
    n->list = ops.v, n->n = ops.n;
    return n;
}

static struct jj_node *parse_not(struct parser *p) {
    uint32_t line = p->t->line;
    if (!skip_name(p, "not")) return parse_compare(p);
    enter(p);
    struct jj_node *n = node_ab(p, JJ_N_NOT, line, parse_not(p), NULL);
    leave(p);
    return n;
}

static struct jj_node *parse_and(struct parser *p) {
    struct jj_node *n = parse_not(p);
    while (skip_name(p, "and")) n = node_ab(p, JJ_N_AND, n->line, n, parse_not(p));
    return n;
}

static struct jj_node *parse_or(struct parser *p) {
    struct jj_node *n = parse_and(p);
    while (skip_name(p, "or")) n = node_ab(p, JJ_N_OR, n->line, n, parse_and(p));
    return n;
}

static struct jj_node *parse_expr(struct parser *p, enum mode mode) {
    enter(p);
    struct jj_node *n = parse_or(p);
    while (mode == WITH_COND && at_name(p, "if")) {
        uint32_t line = p->t->line;
        next(p);
        struct jj_node *cond = node_ab(p, JJ_N_COND, line, parse_or(p), n);
        if (skip_name(p, "else")) cond->c = parse_expr(p, WITH_COND);
        n = cond;
    }
    leave(p);
    return n;
}

/* One expression, or a tuple of several with commas. end_name ("in", "recursive") ends it as well.
 */
static struct jj_node *parse_tuple(struct parser *p, enum mode mode, bool parens,
                                   const char *end_name) {
    struct nodes items = {0};
    uint32_t line = p->t->line;
    bool tuple = false;
    for (;;) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_VAR_END) || at(p, JJ_T_BLOCK_END) || at(p, JJ_T_RPAREN) ||
            (end_name && at_name(p, end_name)))
            break;
        push(p, &items, parse_expr(p, mode));
        if (!at(p, JJ_T_COMMA)) break;
        tuple = true;
    }
    if (!tuple && items.n) return items.v[0];
    if (!tuple && !parens) unexpected(p, "an expression");
    struct jj_node *n = node(p, JJ_N_TUPLE, line);
    n->list = items.v, n->n = items.n;
    return n;
}

/* --- targets ---------------------------------------------------------------------------------- */

static void check_target(struct parser *p, const struct jj_node *n) {
    p->j->line = n->line;
    if (n->kind == JJ_N_NAME || n->kind == JJ_N_NSREF) return;
    if (n->kind != JJ_N_TUPLE) jj_fail(p->j, ST_INVALID, "cannot assign to this expression");
    for (uint32_t i = 0; i < n->n; i++) check_target(p, n->list[i]);
}

/* name | ns.attr | (target, ...) | target, ...; ends before end_name or a block's end. */
static struct jj_node *parse_target(struct parser *p, const char *end_name, bool ns_targets) {
    struct nodes items = {0};
    uint32_t line = p->t->line;
    bool tuple = false;
    for (;;) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_BLOCK_END) || at(p, JJ_T_RPAREN) || (end_name && at_name(p, end_name)))
            break;
        push(p, &items, parse_primary(p, ns_targets));
        if (!at(p, JJ_T_COMMA)) break;
        tuple = true;
    }
    struct jj_node *n = tuple ? node(p, JJ_N_TUPLE, line) : items.n ? items.v[0] : NULL;
    if (!n) unexpected(p, "a name to assign to");
    if (tuple) n->list = items.v, n->n = items.n;
    check_target(p, n);
    return n;
}

static struct jj_node *parse_param(struct parser *p) {
    struct jj_node *n = node(p, JJ_N_NAME, p->t->line);
    n->name = take_name(p);
    struct jj_val ignored;
    if (constant(n->name, &ignored))
        jj_fail(p->j, ST_INVALID, "cannot assign to '%.*s'", (int)n->name->len, n->name->p);
    return n;
}

/* --- statements ------------------------------------------------------------------------------- */

/* The statements up to one of `ends` (its name consumed, returned in *found). */
static struct jj_node *parse_block(struct parser *p, const char *const *ends, const char **found) {
    skip(p, JJ_T_COLON);
    expect(p, JJ_T_BLOCK_END);
    enter(p);
    struct jj_node *n = parse_body(p, ends, found);
    leave(p);
    return n;
}

static struct jj_node *parse_for(struct parser *p, uint32_t line) {
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    struct jj_node *n = node(p, JJ_N_FOR, line);
    n->a = parse_target(p, "in", false);
    if (!skip_name(p, "in")) unexpected(p, "in");
    n->b = parse_tuple(p, NO_COND, false, "recursive");
    if (skip_name(p, "if")) n->c = parse_expr(p, WITH_COND);
    n->recursive = skip_name(p, "recursive");
    struct nodes bodies = {0};
    const char *found;
    push(p, &bodies, parse_block(p, ends, &found));
    if (found == ends[1]) push(p, &bodies, parse_block(p, end, &found));
    n->list = bodies.v, n->n = bodies.n;
    return n;
}

static struct jj_node *parse_if(struct parser *p, uint32_t line) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif",
                                                                                       NULL};
    struct jj_node *n = node(p, JJ_N_IF, line);
    struct nodes tests = {0}, bodies = {0};
    const char *found = ends[0];
    while (found == ends[0]) {
        push(p, &tests, parse_tuple(p, NO_COND, false, NULL));
        push(p, &bodies, parse_block(p, ends, &found));
    }
    if (found == ends[1]) push(p, &bodies, parse_block(p, end, &found));
    n->list = tests.v, n->n = tests.n, n->list2 = bodies.v, n->n2 = bodies.n;
    return n;
}

static struct jj_node *parse_set(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endset", NULL};
    const char *found;
    struct jj_node *target = parse_target(p, NULL, true);
    if (skip(p, JJ_T_ASSIGN))
        return node_ab(p, JJ_N_SET, line, target, parse_tuple(p, WITH_COND, false, NULL));
    struct jj_node *filter = parse_filters(p, NULL);
    struct jj_node *n = node_ab(p, JJ_N_SET_BLOCK, line, target, parse_block(p, end, &found));
    n->c = filter;
    return n;
}

static void parse_signature(struct parser *p, struct jj_node *n) {
    struct nodes params = {0}, defaults = {0};
    expect(p, JJ_T_LPAREN);
    while (!at(p, JJ_T_RPAREN)) {
        if (params.n) expect(p, JJ_T_COMMA);
        struct jj_node *param = parse_param(p);
        for (uint32_t i = 0; i < params.n; i++)
            if (params.v[i]->name == param->name)
                jj_fail(p->j, ST_INVALID, "duplicate parameter '%.*s'", (int)param->name->len,
                        param->name->p);
        push(p, &params, param);
        if (skip(p, JJ_T_ASSIGN))
            push(p, &defaults, parse_expr(p, WITH_COND));
        else if (defaults.n)
            unexpected(p, "a default, as the parameter before has one");
    }
    next(p);
    n->list = params.v, n->n = params.n, n->list2 = defaults.v, n->n2 = defaults.n;
}

static struct jj_node *parse_macro(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endmacro", NULL};
    const char *found;
    struct jj_node *n = node(p, JJ_N_MACRO, line);
    n->name = parse_param(p)->name;
    parse_signature(p, n);
    n->b = parse_block(p, end, &found);
    return n;
}

static struct jj_node *parse_call_block(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endcall", NULL};
    const char *found;
    struct jj_node *caller = node(p, JJ_N_MACRO, line);
    if (at(p, JJ_T_LPAREN)) parse_signature(p, caller);
    struct jj_node *call = parse_expr(p, WITH_COND);
    if (call->kind != JJ_N_CALL)
        jj_fail(p->j, ST_INVALID, "call: found another expression, expected a call");
    caller->b = parse_block(p, end, &found);
    return node_ab(p, JJ_N_CALL_BLOCK, line, call, caller);
}

static struct jj_node *parse_filter_block(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endfilter", NULL};
    const char *found;
    struct jj_node *filter = parse_filters(p, parse_one_filter(p, NULL));
    return node_ab(p, JJ_N_FILTER_BLOCK, line, filter, parse_block(p, end, &found));
}

static struct jj_node *parse_with(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endwith", NULL};
    const char *found;
    struct jj_node *n = node(p, JJ_N_WITH, line);
    struct nodes targets = {0}, values = {0};
    while (!at(p, JJ_T_BLOCK_END)) {
        if (targets.n) expect(p, JJ_T_COMMA);
        push(p, &targets, parse_target(p, NULL, false));
        expect(p, JJ_T_ASSIGN);
        push(p, &values, parse_expr(p, WITH_COND));
    }
    n->list = targets.v, n->n = targets.n, n->list2 = values.v, n->n2 = values.n;
    n->b = parse_block(p, end, &found);
    return n;
}

static struct jj_node *parse_generation(struct parser *p, uint32_t line) {
    static const char *const end[] = {"endgeneration", NULL};
    const char *found;
    struct jj_node *macro = node(p, JJ_N_MACRO, line);
    macro->b = parse_block(p, end, &found);
    return node_ab(p, JJ_N_GENERATION, line, NULL, macro);
}

static struct jj_node *parse_print(struct parser *p, uint32_t line) {
    struct jj_node *n = node(p, JJ_N_BODY, line);
    struct nodes items = {0};
    while (!at(p, JJ_T_BLOCK_END)) {
        if (items.n) expect(p, JJ_T_COMMA);
        push(p, &items, node_ab(p, JJ_N_PRINT, line, parse_expr(p, WITH_COND), NULL));
    }
    n->list = items.v, n->n = items.n;
    return n;
}

static struct jj_node *parse_statement(struct parser *p) {
    static const char *const refused[] = {"include", "import", "from",
                                          "extends", "block",  "autoescape"};
    uint32_t line = p->t->line;
    p->j->line = line;
    if (!at(p, JJ_T_NAME)) unexpected(p, "the name of a statement");
    const struct jj_str *s = p->t->val.s;
    next(p);
    if (jj_str_is(s, "if")) return parse_if(p, line);
    if (jj_str_is(s, "for")) return parse_for(p, line);
    if (jj_str_is(s, "set")) return parse_set(p, line);
    if (jj_str_is(s, "macro")) return parse_macro(p, line);
    if (jj_str_is(s, "call")) return parse_call_block(p, line);
    if (jj_str_is(s, "filter")) return parse_filter_block(p, line);
    if (jj_str_is(s, "with")) return parse_with(p, line);
    if (jj_str_is(s, "generation")) return parse_generation(p, line);
    if (jj_str_is(s, "print")) return parse_print(p, line);
    if (jj_str_is(s, "break")) return node(p, JJ_N_BREAK, line);
    if (jj_str_is(s, "continue")) return node(p, JJ_N_CONTINUE, line);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (jj_str_is(s, refused[i]))
            jj_fail(p->j, ST_UNSUPPORTED, "statement '%s' is not supported in a chat template",
                    refused[i]);
    jj_fail(p->j, ST_INVALID, "unknown statement '%.*s'", (int)s->len, s->p);
}

static const char *at_end(const struct parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (at_name(p, *ends)) return *ends;
    return NULL;
}

static struct jj_node *parse_body(struct parser *p, const char *const *ends, const char **found) {
    struct jj_node *n = node(p, JJ_N_BODY, p->t->line);
    struct nodes items = {0};
    while (!at(p, JJ_T_EOF)) {
        uint32_t line = p->t->line;
        if (at(p, JJ_T_DATA)) {
            struct jj_node *data = node(p, JJ_N_DATA, line);
            data->value = p->t->val;
            next(p);
            push(p, &items, data);
        } else if (skip(p, JJ_T_VAR_BEGIN)) {
            push(p, &items,
                 node_ab(p, JJ_N_PRINT, line, parse_tuple(p, WITH_COND, false, NULL), NULL));
            expect(p, JJ_T_VAR_END);
        } else {
            expect(p, JJ_T_BLOCK_BEGIN);
            const char *end = at_end(p, ends);
            if (end) {
                *found = end;
                next(p);
                n->list = items.v, n->n = items.n;
                return n;
            }
            push(p, &items, parse_statement(p));
            expect(p, JJ_T_BLOCK_END);
        }
    }
    if (ends) unexpected(p, ends[0]);
    n->list = items.v, n->n = items.n;
    return n;
}

struct jj_node *jj_parse(struct jj *j, struct jj_names *names, const char *source, size_t len) {
    struct parser p = {.j = j, .names = names, .t = jj_lex(j, source, len)};
    names->seen = jj_dict_new(j);
    return parse_body(&p, NULL, NULL);
}
