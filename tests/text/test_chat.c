/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h and chat_load.h: where each byte of a prompt comes from, sentences that name construct and
 * line, limits, and finding a template in a folder. That prompts equal the original's is
 * tests/e2e/test_template.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "text/chat_limits.h"
#include "text/chat_load.h"

static const struct chat_limits usual = {.memory_bytes = 64 << 20, .steps = 2000000};

static enum st render(struct chat_prompt *p, const char *source, const char *context,
                      const struct chat_limits *limits, struct err *err) {
    struct chat_template *t = NULL;
    json_t *c = NULL;
    *p = (struct chat_prompt){0};
    assert_int_equal(json_parse(&c, context, strlen(context), "context", err), ST_OK);
    enum st st = chat_template_new(&t, source, strlen(source), "t.jinja", err);
    if (!st) st = chat_template_render_within(p, t, c, 0, limits, err);
    chat_template_free(t);
    json_decref(c);
    return st;
}

/* --- origins ---------------------------------------------------------------------------------- */

#define CONTEXT                                                                                    \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"uu<X>uu\",\"list\":[\"u1\",\"u2\"]},"         \
    "{\"role\":\"assistant\",\"content\":\"aa\",\"reasoning\":\"r\","                              \
    "\"calls\":{\"key\":\"val\"}},{\"role\":\"<X>\"},{\"role\":\"assistantx\"}],"                  \
    "\"bos_token\":\"<s>\",\"evil_token\":\"evil\",\"kw\":\"kw\",\"num\":42,\"yes\":true}"

/* origins: one letter a byte: t template, a assistant, o other. */
static void check(const char *source, const char *text, const char *origins) {
    struct chat_prompt p;
    struct err err = {0};
    if (render(&p, source, CONTEXT, &usual, &err)) fail_msg("%s: %s", source, err.text);
    assert_int_equal(p.text.len, p.origin.len);
    char got[256] = "";
    assert_true(p.origin.len < sizeof got);
    for (size_t i = 0; i < p.origin.len; i++) got[i] = "tao"[(uint8_t)p.origin.data[i]];
    assert_string_equal(p.text.data ? p.text.data : "", text);
    assert_string_equal(got, origins);
    chat_prompt_release(&p);
}

static void a_string_has_the_origin_of_who_wrote_it(void **state) {
    (void)state;
    check("T{{ 'T' }}{{ messages[0].content }}{{ messages[1].content }}", "TTuu<X>uuaa",
          "ttoooooooaa");
    check("{{ bos_token }}{{ kw }}{{ evil_token }}", "<s>kwevil", "tttoooooo");
    check("{{ messages[0].role }}{{ messages[1].role }}", "userassistant", "ttttttttttttt");
    check("{{ '<|' + messages[0]['role'] + '|>' }}", "<|user|>", "tttttttt");
    check("{{ messages[2].role }}{{ messages[3].role }}", "<X>assistantx", "ooooooooooooo");
    check("{{ messages[1].reasoning_content }}{{ messages[1].thinking }}", "rr", "aa");
    check("{{ num }}{{ num + 1 }}{{ 1 }}{{ yes }}", "42431True", "ooootoooo");
    check("{% for k in messages[0] %}{{ k }}{% endfor %}", "rolecontentlist", "ooooooooooooooo");
    check("{% for k in messages[1].calls %}{{ k }}{% endfor %}", "key", "aaa");
}

static void string_methods_keep_origins_byte_for_byte(void **state) {
    (void)state;
    check("{{ ('<' + messages[0].content + messages[1].content + '>')[1:9] }}", "uu<X>uua",
          "oooooooa");
    check("{{ ('ab' ~ kw ~ 'cd').upper() }}", "ABKWCD", "ttoott");
    check("{{ ('  ' ~ kw ~ '  ').strip() }}", "kw", "oo");
    check("{{ messages[0].content.replace('<X>', '<T>') }}", "uu<T>uu",
          "oottto"
          "o");
    check("{{ '<X>'.replace('X', kw) }}", "<kw>", "toot");
    check("{{ messages[0].content.split('<X>')|join('-') }}", "uu-uu", "ootoo");
    check("{{ '-'.join(messages[0].list) }}", "u1-u2", "ootoo");
    check("{{ kw.join(['T', 'T']) }}", "TkwT", "toot");
    check("{{ messages[0].content.partition('<X>')[1] }}", "<X>", "ooo");
    check("{{ ('T' ~ kw)[::-1] }}{{ ('T' ~ kw)|reverse }}", "wkTwkT", "ootoot");
    check("{{ kw * 2 }}{{ kw.center(4, '*') }}", "kwkw*kw*",
          "oooo"
          "toot");
    check("{% for c in 'T' ~ kw %}{{ c }}{% endfor %}", "Tkw", "too");
    check("{{ kw|title }}{{ (kw ~ 'T')|list|first }}{{ [kw, 'T']|sort|join }}", "KwkkwT", "ooooot");
}

static void formatting_keeps_the_origin_of_its_parts(void **state) {
    (void)state;
    check("{{ 'a%sb' % kw }}{{ kw % () if false else '' }}", "akwb", "toot");
    check("{{ 'a{}b{x}'.format(kw, x=messages[1].content) }}", "akwbaa", "tootaa");
    check("{{ '%5s|%d' % (kw, num) }}", "   kw|42", "tttootoo");
    check("{{ [kw, 'T'] }}", "['kw', 'T']", "ttoottttttt");
    check("{{ kw|e }}{{ '<'|e }}{{ messages[0].content|e }}", "kw&lt;uu&lt;X&gt;uu",
          "oottttooooooooooooo");
}

static void tojson_keeps_the_origin_of_keys_and_values(void **state) {
    (void)state;
    check("{{ messages[1].calls|tojson }}", "{\"key\": \"val\"}",
          "ttaaatttt"
          "aaatt");
    check("{{ {kw: 'T', 'T': num}|tojson }}", "{\"kw\": \"T\", \"T\": 42}",
          "ttoo"
          "ttttttttttttt"
          "oot");
    check("{{ messages[0].list|tojson }}", "[\"u1\", \"u2\"]", "ttoottttoott");
    check("{{ (kw ~ '\\n')|tojson }}", "\"kw\\n\"", "toottt");
}

static void captured_output_keeps_origins(void **state) {
    (void)state;
    check("{% set x %}T{{ kw }}{% endset %}{{ x }}", "Tkw", "too");
    check("{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(kw)|upper }}", "[KW]", "toot");
    check("{% filter upper %}t{{ kw }}{% endfilter %}", "TKW", "too");
    check("{% generation %}T{{ messages[1].content }}{% endgeneration %}", "Taa", "taa");
}

/* --- errors ----------------------------------------------------------------------------------- */

static void refuse(const char *source, enum st code, const char *sentence) {
    struct chat_prompt p;
    struct err err = {0};
    enum st st = render(&p, source, CONTEXT, &usual, &err);
    chat_prompt_release(&p);
    if (!st) fail_msg("%s: rendered, expected: %s", source, sentence);
    assert_string_equal(err.text, sentence);
    assert_int_equal(st, code);
}

static void what_is_unknown_is_named_with_its_line(void **state) {
    (void)state;
    refuse("a\n{{ x|nope }}", ST_UNSUPPORTED, "t.jinja: line 2: no filter named 'nope'");
    refuse("\n\n{{ x is nope }}", ST_UNSUPPORTED, "t.jinja: line 3: no test named 'nope'");
    refuse("{% if true %}\n{{ x|from_json }}{% endif %}", ST_UNSUPPORTED,
           "t.jinja: line 2: no filter named 'from_json'");
    refuse("\n{{ x|pprint }}", ST_UNSUPPORTED,
           "t.jinja: line 2: filter 'pprint' is not supported in a chat template");
    refuse("\n\n{% set c = cycler('a') %}", ST_UNSUPPORTED,
           "t.jinja: line 3: function 'cycler' is not supported in a chat template");
    refuse("\n{% nope %}", ST_INVALID, "t.jinja: line 2: unknown statement 'nope'");
    refuse("{% include 'x' %}", ST_UNSUPPORTED,
           "t.jinja: line 1: statement 'include' is not supported in a chat template");
    refuse("\n{{ messages.append(1) }}", ST_INVALID,
           "t.jinja: line 2: access to attribute 'append' of 'list' object is unsafe");
    refuse("{{ kw.encode('utf-8') }}", ST_UNSUPPORTED,
           "t.jinja: line 1: attribute 'encode' of a str is not supported");
    refuse("\n{{ missing.x }}", ST_INVALID, "t.jinja: line 2: 'missing' is undefined");
    refuse("{{ messages[0].nope.x }}", ST_INVALID,
           "t.jinja: line 1: 'dict object' has no attribute 'nope'");
    refuse("{{ missing() }}", ST_INVALID, "t.jinja: line 1: 'missing' is undefined");
    refuse("{% if x %}\n", ST_INVALID, "t.jinja: line 1: found end of template, expected elif");
    refuse("{{ 'a' }", ST_INVALID, "t.jinja: line 1: unexpected '}'");
    refuse("{{ 1 +\n }}", ST_INVALID, "t.jinja: line 2: found }}, expected an expression");
    refuse("{# ", ST_INVALID, "t.jinja: line 1: a comment is not closed");
    refuse("{{ 1 / 0 }}", ST_INVALID, "t.jinja: line 1: division by zero");
    refuse("{{ 9223372036854775807 + 1 }}", ST_UNSUPPORTED,
           "t.jinja: line 1: an integer over 64 bits");
    refuse("{{ range }}", ST_UNSUPPORTED, "t.jinja: line 1: printing a function is not supported");
}

static void raise_exception_is_an_error_with_its_text(void **state) {
    (void)state;
    refuse("{% for m in messages %}\n{{ raise_exception('No ' + m.role + '!') }}{% endfor %}",
           ST_INVALID, "t.jinja: line 2: No user!");
}

static void messages_that_are_none_are_refused(void **state) {
    (void)state;
    struct chat_prompt p;
    struct err err = {0};
    assert_int_equal(render(&p, "x", "{\"messages\":[]}", &usual, &err), ST_INVALID);
    assert_string_equal(err.text, "t.jinja: messages: found none, expected at least one");
    assert_int_equal(render(&p, "x", "{\"messages\":[1]}", &usual, &err), ST_INVALID);
    assert_string_equal(err.text, "t.jinja: messages[0]: found an integer, expected an object");
    assert_int_equal(render(&p, "x", "[]", &usual, &err), ST_INVALID);
    assert_int_equal(chat_template_new(&(struct chat_template *){0}, "\xff", 1, "t", &err),
                     ST_INVALID);
    assert_string_equal(err.text, "t: found bytes that are not UTF-8");
}

/* --- limits ----------------------------------------------------------------------------------- */

/* 2^50 leaves, of 50 tuples; and a string that many methods read whole. */
#define SHARED_TUPLE                                                                               \
    "{% set ns = namespace(t=1) %}{% for i in range(50) %}{% set ns.t = (ns.t, ns.t) %}{% endfor " \
    "%}"
#define MEGABYTES(expression)                                                                      \
    "{% set x = 'x' * 1999999 %}{% for i in range(99999) %}{% if " expression                      \
    " %}{% endif %}{% endfor %}"

static void endless_work_meets_a_limit(void **state) {
    (void)state;
    static const char *const sources[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% for i in range(9) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
        "endfor %}",
        "{% set ns = namespace(s='') %}{% for i in range(99999) %}{% set ns.s = 'xxxxxxxxxxxxxxxx' "
        "+ ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% "
        "endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor "
        "%}{{ ns.l }}",
        "{{ 'x' * 99999999 }}",
        "{{ [1] * 99999999 }}",
        "{{ '%99999999d' % 1 }}",
        "{{ '{:99999999}'.format(1) }}",
        "{{ 'x'.center(99999999) }}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ (range(99999)|list * 99)|sort }}",
        "{{ 'a'|indent(99999999, true) }}",
        "{{ [[]]|tojson(indent=99999999) }}",
        "{{ 2 ** 999999999 }}",
        "{{ range(99999)|batch(2)|list|map('join', 'x' * 99999)|join }}",
        "{% set s = 'ab' * 499999 %}{% for i in range(99999) %}{{ 'x' in s }}{% endfor %}",
        "{% set s = 'é' * 499999 %}{% for i in range(99999) %}{{ s[499998] }}{% endfor %}",
        SHARED_TUPLE "{{ {}[ns.t] is defined }}",
        SHARED_TUPLE "{{ {ns.t: 1} }}",
        SHARED_TUPLE "{% set a = ns.t %}" SHARED_TUPLE "{{ a == ns.t }}",
        SHARED_TUPLE "{% set a = ns.t %}" SHARED_TUPLE "{{ a < ns.t }}",
        SHARED_TUPLE "{{ ns.t }}",
        SHARED_TUPLE "{{ ns.t|tojson }}",
        MEGABYTES("x.isalpha()"),
        MEGABYTES("x.islower()"),
        MEGABYTES("x.istitle()"),
        MEGABYTES("x.startswith(x)"),
        MEGABYTES("x.endswith((x, x))"),
        MEGABYTES("x|wordcount"),
        MEGABYTES("('0' ~ x)|int"),
        MEGABYTES("x.count('x')"),
        MEGABYTES("x.rfind(x[:999999] ~ 'y')"),
        MEGABYTES("'x'.startswith((x,) * 999)"),
        "{% set l = [1] * 9999 %}{% for i in range(99999) %}{{ 2 in l }}{{ l == l }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct chat_prompt p;
        struct err err = {0};
        enum st st = render(&p, sources[i], CONTEXT, &usual, &err);
        chat_prompt_release(&p);
        if (st != ST_FULL && st != ST_UNSUPPORTED)
            fail_msg("%s: %s %s", sources[i], st_name(st), err.text);
    }
}

/* A round costs what its frame holds, also the names that nothing sets: within the limit of steps,
 * 30000 rounds would copy 180 million of them. */
static void a_wide_frame_costs_steps(void **state) {
    (void)state;
    struct buf source = {.max = 1 << 20};
    struct chat_prompt p;
    struct err err = {0};
    char line[64];
    enum st st = buf_append_str(&source, "{% for i in range(99999) %}{% if false %}");
    for (int i = 0; i < 6000 && !st; i++) {
        snprintf(line, sizeof line, "{%% set v%d = 1 %%}", i);
        st = buf_append_str(&source, line);
    }
    if (!st) st = buf_append_str(&source, "{% endif %}{% endfor %}");
    if (!st) st = buf_append(&source, "", 1);
    assert_int_equal(st, ST_OK);
    assert_int_equal(render(&p, source.data, CONTEXT, &usual, &err), ST_FULL);
    assert_non_null(strstr(err.text, "steps"));
    chat_prompt_release(&p);
    buf_release(&source);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    static const char *const parts[] = {"(",   "[",  "{{",    "not ", "-",   "{% if 1 %}",
                                        "{1:", "a(", "a if ", "1 + ", "1 ~ "};
    static char source[200000];
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        size_t n = 0, len = strlen(parts[k]);
        bool block = strncmp(parts[k], "{%", 2) == 0;
        if (!block) n += (size_t)sprintf(source, "{{ ");
        while (n + len + 2 < sizeof source) memcpy(source + n, parts[k], len), n += len;
        source[n++] = '1';
        source[n] = '\0';
        struct chat_prompt p;
        struct err err = {0};
        assert_int_not_equal(render(&p, source, CONTEXT, &usual, &err), ST_OK);
        chat_prompt_release(&p);
    }
}

static void every_limit_of_memory_and_steps_fails_cleanly(void **state) {
    (void)state;
    const char *source =
        "{% macro m(a) %}{{ a|upper }}{% endmacro %}{% for x in messages %}{{ m(x.role) }}"
        "{{ x|tojson }}{{ x.items()|list|sort(attribute=0) }}{{ '%s' % x.content }}{% endfor %}";
    struct chat_prompt p;
    struct err err;
    size_t fails = 0;
    enum st st = ST_FULL;
    for (size_t memory = 64; st; memory += 128, fails++) {
        st = render(&p, source, CONTEXT,
                    &(struct chat_limits){.memory_bytes = memory, .steps = 100000}, &err);
        if (st) assert_int_equal(st, ST_FULL);
        chat_prompt_release(&p);
    }
    assert_true(fails > 50);
    st = ST_FULL;
    for (uint64_t steps = 1; st; steps += 3) {
        st = render(&p, source, CONTEXT,
                    &(struct chat_limits){.memory_bytes = 8 << 20, .steps = steps}, &err);
        if (st) assert_int_equal(st, ST_FULL);
        chat_prompt_release(&p);
    }
}

/* --- folders ---------------------------------------------------------------------------------- */

static void put(const char *dir, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void check_folder(const char *path, const char *request, const char *expected) {
    struct chat_model *m = NULL;
    struct chat_prompt p = {0};
    struct err err = {0};
    json_t *q = NULL;
    assert_int_equal(json_parse(&q, request, strlen(request), "request", &err), ST_OK);
    enum st st = chat_model_open(&m, path, &err);
    if (!st) st = chat_model_render(&p, m, q, 0, &err);
    assert_string_equal(st ? err.text : p.text.data ? p.text.data : "", expected);
    chat_prompt_release(&p);
    chat_model_free(m);
    json_decref(q);
}

#define HI "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

static void the_template_of_a_folder_is_found_as_transformers_does(void **state) {
    (void)state;
    char dir[] = "/tmp/test_chat_XXXXXX", path[64], config[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", dir);
    char nothing[128];
    snprintf(nothing, sizeof nothing,
             "%s: found neither chat_template.jinja nor tokenizer_config.json", dir);
    check_folder(dir, HI "}", nothing);
    put(dir, "tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    snprintf(nothing, sizeof nothing, "%s: the model has no chat template", dir);
    check_folder(dir, HI "}", nothing);
    put(dir, "tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":null,\"chat_template\":[{\"name\":"
        "\"default\",\"template\":"
        "\"{{ bos_token }}d{{ add_generation_prompt }}{{ x }}{{ eos_token "
        "}}\"},{\"name\":\"tool_use\",\"template\":\"t\"}]}");
    check_folder(dir, HI "}", "<s>dTrue");
    check_folder(dir, HI ",\"tools\":[]}", "t");
    check_folder(dir, HI ",\"tools\":null,\"x\":1,\"add_generation_prompt\":false}", "<s>dFalse1");
    check_folder(dir, HI ",\"chat_template_kwargs\":{\"x\":2}}", "<s>dTrue2");
    check_folder(dir, HI ",\"bos_token\":\"x\"}",
                 "request: bos_token is the checkpoint's and cannot be given");
    check_folder(dir, HI ",\"chat_template_kwargs\":{\"eos_token\":\"x\"}}",
                 "chat_template_kwargs: eos_token is the checkpoint's and cannot be given");
    check_folder(dir, HI ",\"chat_template_kwargs\":{\"messages\":[]}}",
                 "chat_template_kwargs: messages belong beside it, not in it");
    check_folder(dir, "{\"messages\":3}", "messages: found an integer, expected an array");
    check_folder(dir, "{}", "messages: found nothing, expected an array");
    put(dir, "chat_template.jinja", "file {{ bos_token }}\n\n");
    check_folder(dir, HI "}", "file <s>\n");
    check_folder(path, HI "}", "file \n"); /* by itself: no tokens but those of the request */
    check_folder(path, HI ",\"bos_token\":\"<b>\"}", "file <b>\n");
    unlink(path);
    unlink(config);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_string_has_the_origin_of_who_wrote_it),
        cmocka_unit_test(string_methods_keep_origins_byte_for_byte),
        cmocka_unit_test(formatting_keeps_the_origin_of_its_parts),
        cmocka_unit_test(tojson_keeps_the_origin_of_keys_and_values),
        cmocka_unit_test(captured_output_keeps_origins),
        cmocka_unit_test(what_is_unknown_is_named_with_its_line),
        cmocka_unit_test(raise_exception_is_an_error_with_its_text),
        cmocka_unit_test(messages_that_are_none_are_refused),
        cmocka_unit_test(endless_work_meets_a_limit),
        cmocka_unit_test(a_wide_frame_costs_steps),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(every_limit_of_memory_and_steps_fails_cleanly),
        cmocka_unit_test(the_template_of_a_folder_is_found_as_transformers_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
