/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions, by recursive descent in the order of jinja2/parser.py, whose precedences differ from
 * Python's here and there (filters bind tighter than unary minus's operand, "~" tighter than "+").
 */
#include "text/jinja_parser.h"
#include "text/jinja_text.h"

/* --- primary expressions -------------------------------------------------------------------- */

bool jj_parse_constant(const struct jj_str *s, struct jj_val *out) {
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

static struct jj_node *parse_list(struct jj_parser *p) {
    struct jj_node *n = node(p, JJ_N_LIST, p->t->line);
    struct jj_nodes items = {0};
    expect(p, JJ_T_LBRACKET);
    while (!at(p, JJ_T_RBRACKET)) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_RBRACKET)) break;
        push(p, &items, jj_parse_expr(p, JJ_WITH_COND));
    }
    next(p);
    n->list = items.v, n->n = items.n;
    return n;
}

static struct jj_node *parse_dict(struct jj_parser *p) {
    struct jj_node *n = node(p, JJ_N_DICT, p->t->line);
    struct jj_nodes keys = {0}, values = {0};
    expect(p, JJ_T_LBRACE);
    while (!at(p, JJ_T_RBRACE)) {
        if (keys.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_RBRACE)) break;
        push(p, &keys, jj_parse_expr(p, JJ_WITH_COND));
        expect(p, JJ_T_COLON);
        push(p, &values, jj_parse_expr(p, JJ_WITH_COND));
    }
    next(p);
    n->list = keys.v, n->n = keys.n, n->list2 = values.v, n->n2 = values.n;
    return n;
}

static struct jj_node *parse_strings(struct jj_parser *p) {
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
struct jj_node *jj_parse_primary(struct jj_parser *p, bool ns_targets) {
    uint32_t line = p->t->line;
    switch (p->t->type) {
    case JJ_T_NAME: {
        struct jj_node *n = node(p, JJ_N_NAME, line);
        n->name = take_name(p);
        if (jj_parse_constant(n->name, &n->value))
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
        struct jj_node *n = jj_parse_tuple(p, JJ_WITH_COND, true, NULL);
        expect(p, JJ_T_RPAREN);
        return n;
    }
    case JJ_T_LBRACKET: return parse_list(p);
    case JJ_T_LBRACE: return parse_dict(p);
    default: unexpected(p, "an expression");
    }
}

/* --- calls, subscripts, filters, tests ------------------------------------------------------ */

static void push_kwarg(struct jj_parser *p, struct jj_call_args *args, uint32_t *cap,
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

static struct jj_call_args *parse_args(struct jj_parser *p) {
    struct jj_call_args *args = jj_alloc(p->j, sizeof *args);
    *args = (struct jj_call_args){0};
    struct jj_nodes pos = {0};
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
            args->star = jj_parse_expr(p, JJ_WITH_COND);
        } else if (skip(p, JJ_T_POW)) {
            ok = !args->star_star;
            args->star_star = jj_parse_expr(p, JJ_WITH_COND);
        } else if (at(p, JJ_T_NAME) && p->t[1].type == JJ_T_ASSIGN) {
            ok = !args->star_star;
            struct jj_kwarg kw = {.name = take_name(p)};
            next(p);
            kw.value = jj_parse_expr(p, JJ_WITH_COND);
            push_kwarg(p, args, &kw_cap, kw);
        } else {
            ok = !args->star && !args->star_star && !args->n_kw;
            push(p, &pos, jj_parse_expr(p, JJ_WITH_COND));
        }
        if (!ok) jj_fail(p->j, ST_INVALID, "invalid order of arguments in a call");
    }
    next(p);
    args->pos = pos.v, args->n_pos = pos.n;
    return args;
}

static struct jj_node *parse_subscribed(struct jj_parser *p) {
    uint32_t line = p->t->line;
    struct jj_node *part[3] = {0};
    if (!at(p, JJ_T_COLON)) {
        part[0] = jj_parse_expr(p, JJ_WITH_COND);
        if (!at(p, JJ_T_COLON)) return part[0];
    }
    for (int i = 1; i < 3 && skip(p, JJ_T_COLON); i++)
        if (!at(p, JJ_T_COLON) && !at(p, JJ_T_RBRACKET) && !at(p, JJ_T_COMMA))
            part[i] = jj_parse_expr(p, JJ_WITH_COND);
    struct jj_node *n = node(p, JJ_N_SLICE, line);
    struct jj_nodes step = {0};
    push(p, &step, part[2]);
    n->b = part[0], n->c = part[1], n->list = step.v, n->n = 1;
    return n;
}

static struct jj_node *parse_subscript(struct jj_parser *p, struct jj_node *of) {
    uint32_t line = p->t->line;
    if (skip(p, JJ_T_DOT)) {
        if (at(p, JJ_T_INT)) {
            struct jj_node *n = node_ab(p, JJ_N_ITEM, line, of, jj_parse_primary(p, false));
            return n;
        }
        struct jj_node *n = node_ab(p, JJ_N_ATTR, line, of, NULL);
        n->name = take_name(p);
        return n;
    }
    expect(p, JJ_T_LBRACKET);
    struct jj_nodes parts = {0};
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

static struct jj_node *parse_call(struct jj_parser *p, struct jj_node *of) {
    struct jj_node *n = node_ab(p, JJ_N_CALL, p->t->line, of, NULL);
    n->args = parse_args(p);
    return n;
}

static struct jj_node *parse_postfix(struct jj_parser *p, struct jj_node *n) {
    for (;;) {
        if (at(p, JJ_T_DOT) || at(p, JJ_T_LBRACKET))
            n = parse_subscript(p, n);
        else if (at(p, JJ_T_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

static const struct jj_str *dotted_name(struct jj_parser *p) {
    const struct jj_str *name = take_name(p);
    while (skip(p, JJ_T_DOT)) {
        name = jj_concat(p->j, jj_concat(p->j, name, jj_str_lit(p->j, ".")), take_name(p));
        name = jj_intern(p->j, p->names, name);
    }
    return name;
}

/* What follows a "|", or the head of a filter block. */
struct jj_node *jj_parse_one_filter(struct jj_parser *p, struct jj_node *of) {
    struct jj_node *n = node_ab(p, JJ_N_FILTER, p->t->line, of, NULL);
    n->name = dotted_name(p);
    if (at(p, JJ_T_LPAREN)) n->args = parse_args(p);
    return n;
}

struct jj_node *jj_parse_filters(struct jj_parser *p, struct jj_node *n) {
    while (skip(p, JJ_T_PIPE)) n = jj_parse_one_filter(p, n);
    return n;
}

static bool starts_test_arg(const struct jj_parser *p) {
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

static struct jj_node *parse_test(struct jj_parser *p, struct jj_node *of) {
    uint32_t line = p->t->line;
    next(p); /* "is" */
    bool negated = skip_name(p, "not");
    struct jj_node *n = node_ab(p, JJ_N_TEST, line, of, NULL);
    n->name = dotted_name(p);
    if (at(p, JJ_T_LPAREN)) {
        n->args = parse_args(p);
    } else if (starts_test_arg(p)) {
        if (at_name(p, "is")) unexpected(p, "no second test: tests with is do not chain");
        struct jj_nodes pos = {0};
        push(p, &pos, parse_postfix(p, jj_parse_primary(p, false)));
        n->args = jj_alloc(p->j, sizeof *n->args);
        *n->args = (struct jj_call_args){.pos = pos.v, .n_pos = 1};
    }
    return negated ? node_ab(p, JJ_N_NOT, line, n, NULL) : n;
}

static struct jj_node *parse_filter_expr(struct jj_parser *p, struct jj_node *n) {
    for (;;) {
        if (at(p, JJ_T_PIPE))
            n = jj_parse_filters(p, n);
        else if (at_name(p, "is"))
            n = parse_test(p, n);
        else if (at(p, JJ_T_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* --- operators ------------------------------------------------------------------------------ */

static struct jj_node *parse_unary(struct jj_parser *p, bool with_filter) {
    uint32_t line = p->t->line;
    enum jj_tok op = p->t->type;
    struct jj_node *n;
    enter(p);
    if (op == JJ_T_SUB || op == JJ_T_ADD) {
        next(p);
        n = node_ab(p, JJ_N_UNARY, line, parse_unary(p, false), NULL);
        n->op = (int)op;
    } else {
        n = jj_parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filter_expr(p, n);
    leave(p);
    return n;
}

static struct jj_node *binary(struct jj_parser *p, struct jj_node *a,
                              struct jj_node *(*rest)(struct jj_parser *)) {
    uint32_t line = p->t->line;
    enum jj_tok op = p->t->type;
    next(p);
    struct jj_node *n = node_ab(p, JJ_N_BINARY, line, a, rest(p));
    n->op = (int)op;
    return n;
}

static struct jj_node *parse_filtered(struct jj_parser *p) {
    return parse_unary(p, true);
}

static struct jj_node *parse_pow(struct jj_parser *p) {
    struct jj_node *n = parse_unary(p, true);
    while (at(p, JJ_T_POW)) n = binary(p, n, parse_filtered);
    return n;
}

static struct jj_node *parse_product(struct jj_parser *p) {
    struct jj_node *n = parse_pow(p);
    while (at(p, JJ_T_MUL) || at(p, JJ_T_DIV) || at(p, JJ_T_FLOORDIV) || at(p, JJ_T_MOD))
        n = binary(p, n, parse_pow);
    return n;
}

static struct jj_node *parse_concat(struct jj_parser *p) {
    struct jj_node *first = parse_product(p);
    if (!at(p, JJ_T_TILDE)) return first;
    struct jj_node *n = node(p, JJ_N_CONCAT, p->t->line);
    struct jj_nodes parts = {0};
    push(p, &parts, first);
    while (skip(p, JJ_T_TILDE)) push(p, &parts, parse_product(p));
    n->list = parts.v, n->n = parts.n;
    return n;
}

static struct jj_node *parse_sum(struct jj_parser *p) {
    struct jj_node *n = parse_concat(p);
    while (at(p, JJ_T_ADD) || at(p, JJ_T_SUB)) n = binary(p, n, parse_concat);
    return n;
}

static struct jj_node *parse_compare(struct jj_parser *p) {
    struct jj_node *first = parse_sum(p);
    struct jj_nodes ops = {0};
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

static struct jj_node *parse_not(struct jj_parser *p) {
    uint32_t line = p->t->line;
    if (!skip_name(p, "not")) return parse_compare(p);
    enter(p);
    struct jj_node *n = node_ab(p, JJ_N_NOT, line, parse_not(p), NULL);
    leave(p);
    return n;
}

static struct jj_node *parse_and(struct jj_parser *p) {
    struct jj_node *n = parse_not(p);
    while (skip_name(p, "and")) n = node_ab(p, JJ_N_AND, n->line, n, parse_not(p));
    return n;
}

static struct jj_node *parse_or(struct jj_parser *p) {
    struct jj_node *n = parse_and(p);
    while (skip_name(p, "or")) n = node_ab(p, JJ_N_OR, n->line, n, parse_and(p));
    return n;
}

struct jj_node *jj_parse_expr(struct jj_parser *p, enum jj_mode mode) {
    enter(p);
    struct jj_node *n = parse_or(p);
    while (mode == JJ_WITH_COND && at_name(p, "if")) {
        uint32_t line = p->t->line;
        next(p);
        struct jj_node *cond = node_ab(p, JJ_N_COND, line, parse_or(p), n);
        if (skip_name(p, "else")) cond->c = jj_parse_expr(p, JJ_WITH_COND);
        n = cond;
    }
    leave(p);
    return n;
}

struct jj_node *jj_parse_tuple(struct jj_parser *p, enum jj_mode mode, bool parens,
                               const char *end_name) {
    struct jj_nodes items = {0};
    uint32_t line = p->t->line;
    bool tuple = false;
    for (;;) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_VAR_END) || at(p, JJ_T_BLOCK_END) || at(p, JJ_T_RPAREN) ||
            (end_name && at_name(p, end_name)))
            break;
        push(p, &items, jj_parse_expr(p, mode));
        if (!at(p, JJ_T_COMMA)) break;
        tuple = true;
    }
    if (!tuple && items.n) return items.v[0];
    if (!tuple && !parens) unexpected(p, "an expression");
    struct jj_node *n = node(p, JJ_N_TUPLE, line);
    n->list = items.v, n->n = items.n;
    return n;
}
