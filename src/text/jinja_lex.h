/* SPDX-License-Identifier: Apache-2.0 */
/* Jinja's lexer (jinja2/lexer.py, with trim_blocks and lstrip_blocks on and keep_trailing_newline
 * off): a template becomes a vector of tokens. Whitespace control happens here and nowhere else. */
#ifndef SUPERNODE_TEXT_JINJA_LEX_H
#define SUPERNODE_TEXT_JINJA_LEX_H

#include "text/jinja_value.h"

enum jj_tok {
    JJ_T_EOF,
    JJ_T_DATA,
    JJ_T_VAR_BEGIN,
    JJ_T_VAR_END,
    JJ_T_BLOCK_BEGIN,
    JJ_T_BLOCK_END,
    JJ_T_NAME,
    JJ_T_STRING,
    JJ_T_INT,
    JJ_T_FLOAT,
    JJ_T_ADD,
    JJ_T_SUB,
    JJ_T_MUL,
    JJ_T_DIV,
    JJ_T_FLOORDIV,
    JJ_T_MOD,
    JJ_T_POW,
    JJ_T_TILDE,
    JJ_T_LBRACKET,
    JJ_T_RBRACKET,
    JJ_T_LPAREN,
    JJ_T_RPAREN,
    JJ_T_LBRACE,
    JJ_T_RBRACE,
    JJ_T_EQ,
    JJ_T_NE,
    JJ_T_GT,
    JJ_T_GE,
    JJ_T_LT,
    JJ_T_LE,
    JJ_T_ASSIGN,
    JJ_T_DOT,
    JJ_T_COLON,
    JJ_T_PIPE,
    JJ_T_COMMA,
    JJ_T_SEMICOLON,
};

struct jj_token {
    enum jj_tok type;
    uint32_t line;
    struct jj_val val; /* DATA, NAME, STRING, INT, FLOAT */
};

/* The tokens of a UTF-8 template, ended by JJ_T_EOF, in the arena of j. */
struct jj_token *jj_lex(struct jj *j, const char *source, size_t len);

const char *jj_tok_name(enum jj_tok t); /* as a template writes it: "%}", "(", "name" */

#endif
