/* SPDX-License-Identifier: Apache-2.0 */
/* Statements and their targets. Statements that need other templates are refused by name. */
#include "text/jinja_parser.h"

const struct jj_str *jj_intern(struct jj *j, struct jj_names *names, const struct jj_str *s) {
    struct jj_val *v = jj_dict_get_str(j, names->seen, s);
    if (v) return v->s;
    jj_dict_set(j, names->seen, jj_strv(s), jj_strv(s));
    return s;
}

static struct jj_node *parse_body(struct jj_parser *p, const char *const *ends, const char **found);

/* --- targets -------------------------------------------------------------------------------- */

static void check_target(struct jj_parser *p, const struct jj_node *n) {
    p->j->line = n->line;
    if (n->kind == JJ_N_NAME || n->kind == JJ_N_NSREF) return;
    if (n->kind != JJ_N_TUPLE) jj_fail(p->j, ST_INVALID, "cannot assign to this expression");
    for (uint32_t i = 0; i < n->n; i++) check_target(p, n->list[i]);
}

/* name | ns.attr | (target, ...) | target, ...; ends before end_name or a block's end. */
static struct jj_node *parse_target(struct jj_parser *p, const char *end_name, bool ns_targets) {
    struct jj_nodes items = {0};
    uint32_t line = p->t->line;
    bool tuple = false;
    for (;;) {
        if (items.n) expect(p, JJ_T_COMMA);
        if (at(p, JJ_T_BLOCK_END) || at(p, JJ_T_RPAREN) || (end_name && at_name(p, end_name)))
            break;
        push(p, &items, jj_parse_primary(p, ns_targets));
        if (!at(p, JJ_T_COMMA)) break;
        tuple = true;
    }
    struct jj_node *n = tuple ? node(p, JJ_N_TUPLE, line) : items.n ? items.v[0] : NULL;
    if (!n) unexpected(p, "a name to assign to");
    if (tuple) n->list = items.v, n->n = items.n;
    check_target(p, n);
    return n;
}

static struct jj_node *parse_param(struct jj_parser *p) {
    struct jj_node *n = node(p, JJ_N_NAME, p->t->line);
    n->name = take_name(p);
    struct jj_val ignored;
    if (jj_parse_constant(n->name, &ignored))
        jj_fail(p->j, ST_INVALID, "cannot assign to '%.*s'", (int)n->name->len, n->name->p);
    return n;
}

/* --- statements ----------------------------------------------------------------------------- */

/* The statements up to one of `ends` (its name consumed, returned in *found). */
static struct jj_node *parse_block(struct jj_parser *p, const char *const *ends,
                                   const char **found) {
    skip(p, JJ_T_COLON);
    expect(p, JJ_T_BLOCK_END);
    enter(p);
    struct jj_node *n = parse_body(p, ends, found);
    leave(p);
    return n;
}

static struct jj_node *parse_for(struct jj_parser *p, uint32_t line) {
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    struct jj_node *n = node(p, JJ_N_FOR, line);
    n->a = parse_target(p, "in", false);
    if (!skip_name(p, "in")) unexpected(p, "in");
    n->b = jj_parse_tuple(p, JJ_NO_COND, false, "recursive");
    if (skip_name(p, "if")) n->c = jj_parse_expr(p, JJ_WITH_COND);
    n->recursive = skip_name(p, "recursive");
    struct jj_nodes bodies = {0};
    const char *found;
    push(p, &bodies, parse_block(p, ends, &found));
    if (found == ends[1]) push(p, &bodies, parse_block(p, end, &found));
    n->list = bodies.v, n->n = bodies.n;
    return n;
}

static struct jj_node *parse_if(struct jj_parser *p, uint32_t line) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif",
                                                                                       NULL};
    struct jj_node *n = node(p, JJ_N_IF, line);
    struct jj_nodes tests = {0}, bodies = {0};
    const char *found = ends[0];
    while (found == ends[0]) {
        push(p, &tests, jj_parse_tuple(p, JJ_NO_COND, false, NULL));
        push(p, &bodies, parse_block(p, ends, &found));
    }
    if (found == ends[1]) push(p, &bodies, parse_block(p, end, &found));
    n->list = tests.v, n->n = tests.n, n->list2 = bodies.v, n->n2 = bodies.n;
    return n;
}

static struct jj_node *parse_set(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endset", NULL};
    const char *found;
    struct jj_node *target = parse_target(p, NULL, true);
    if (skip(p, JJ_T_ASSIGN))
        return node_ab(p, JJ_N_SET, line, target, jj_parse_tuple(p, JJ_WITH_COND, false, NULL));
    struct jj_node *filter = jj_parse_filters(p, NULL);
    struct jj_node *n = node_ab(p, JJ_N_SET_BLOCK, line, target, parse_block(p, end, &found));
    n->c = filter;
    return n;
}

static void parse_signature(struct jj_parser *p, struct jj_node *n) {
    struct jj_nodes params = {0}, defaults = {0};
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
            push(p, &defaults, jj_parse_expr(p, JJ_WITH_COND));
        else if (defaults.n)
            unexpected(p, "a default, as the parameter before has one");
    }
    next(p);
    n->list = params.v, n->n = params.n, n->list2 = defaults.v, n->n2 = defaults.n;
}

static struct jj_node *parse_macro(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endmacro", NULL};
    const char *found;
    struct jj_node *n = node(p, JJ_N_MACRO, line);
    n->name = parse_param(p)->name;
    parse_signature(p, n);
    n->b = parse_block(p, end, &found);
    return n;
}

static struct jj_node *parse_call_block(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endcall", NULL};
    const char *found;
    struct jj_node *caller = node(p, JJ_N_MACRO, line);
    if (at(p, JJ_T_LPAREN)) parse_signature(p, caller);
    struct jj_node *call = jj_parse_expr(p, JJ_WITH_COND);
    if (call->kind != JJ_N_CALL)
        jj_fail(p->j, ST_INVALID, "call: found another expression, expected a call");
    caller->b = parse_block(p, end, &found);
    return node_ab(p, JJ_N_CALL_BLOCK, line, call, caller);
}

static struct jj_node *parse_filter_block(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endfilter", NULL};
    const char *found;
    struct jj_node *filter = jj_parse_filters(p, jj_parse_one_filter(p, NULL));
    return node_ab(p, JJ_N_FILTER_BLOCK, line, filter, parse_block(p, end, &found));
}

static struct jj_node *parse_with(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endwith", NULL};
    const char *found;
    struct jj_node *n = node(p, JJ_N_WITH, line);
    struct jj_nodes targets = {0}, values = {0};
    while (!at(p, JJ_T_BLOCK_END)) {
        if (targets.n) expect(p, JJ_T_COMMA);
        push(p, &targets, parse_target(p, NULL, false));
        expect(p, JJ_T_ASSIGN);
        push(p, &values, jj_parse_expr(p, JJ_WITH_COND));
    }
    n->list = targets.v, n->n = targets.n, n->list2 = values.v, n->n2 = values.n;
    n->b = parse_block(p, end, &found);
    return n;
}

static struct jj_node *parse_generation(struct jj_parser *p, uint32_t line) {
    static const char *const end[] = {"endgeneration", NULL};
    const char *found;
    struct jj_node *macro = node(p, JJ_N_MACRO, line);
    macro->b = parse_block(p, end, &found);
    return node_ab(p, JJ_N_GENERATION, line, NULL, macro);
}

static struct jj_node *parse_print(struct jj_parser *p, uint32_t line) {
    struct jj_node *n = node(p, JJ_N_BODY, line);
    struct jj_nodes items = {0};
    while (!at(p, JJ_T_BLOCK_END)) {
        if (items.n) expect(p, JJ_T_COMMA);
        push(p, &items, node_ab(p, JJ_N_PRINT, line, jj_parse_expr(p, JJ_WITH_COND), NULL));
    }
    n->list = items.v, n->n = items.n;
    return n;
}

static struct jj_node *parse_statement(struct jj_parser *p) {
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

static const char *at_end(const struct jj_parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (at_name(p, *ends)) return *ends;
    return NULL;
}

static struct jj_node *parse_body(struct jj_parser *p, const char *const *ends,
                                  const char **found) {
    struct jj_node *n = node(p, JJ_N_BODY, p->t->line);
    struct jj_nodes items = {0};
    while (!at(p, JJ_T_EOF)) {
        uint32_t line = p->t->line;
        if (at(p, JJ_T_DATA)) {
            struct jj_node *data = node(p, JJ_N_DATA, line);
            data->value = p->t->val;
            next(p);
            push(p, &items, data);
        } else if (skip(p, JJ_T_VAR_BEGIN)) {
            push(p, &items,
                 node_ab(p, JJ_N_PRINT, line, jj_parse_tuple(p, JJ_WITH_COND, false, NULL), NULL));
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
    struct jj_parser p = {.j = j, .names = names, .t = jj_lex(j, source, len)};
    names->seen = jj_dict_new(j);
    return parse_body(&p, NULL, NULL);
}
