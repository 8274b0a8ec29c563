/* SPDX-License-Identifier: Apache-2.0 */
/* Implements page.h. The assembler puts the files in; nothing is generated. */
#include "serve/page.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <event2/buffer.h>

#define EMBED(name, file)                                                                          \
    __asm__(".section .rodata\n" #name ":\n.incbin \"src/serve/page/" file "\"\n" #name            \
            "_end:\n.byte 0\n.previous\n");                                                        \
    extern const char name[], name##_end[]

EMBED(page_html, "page.html");
EMBED(page_css, "page.css");
EMBED(page_js, "page.js");

static const struct file {
    const char *path, *type, *data, *end;
} files[] = {
    {"/", "text/html; charset=utf-8", page_html, page_html_end},
    {"/page.css", "text/css; charset=utf-8", page_css, page_css_end},
    {"/page.js", "text/javascript; charset=utf-8", page_js, page_js_end},
};

static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/* FNV-1a: it only has to change when the file does. */
static uint64_t hash(const char *data, size_t len) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)data[i]) * 0x100000001b3u;
    return h;
}

int page_send(struct evhttp_request *req) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL, *known;
    const struct file *f = files;
    for (size_t i = 1; i < sizeof files / sizeof *files && path; i++)
        if (strcmp(path, files[i].path) == 0) f = &files[i];
    size_t len = (size_t)(f->end - f->data);
    char tag[32];
    snprintf(tag, sizeof tag, "\"%016" PRIx64 "\"", hash(f->data, len));
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    evhttp_add_header(h, "Content-Type", f->type);
    evhttp_add_header(h, "Cache-Control", "no-cache");
    evhttp_add_header(h, "ETag", tag);
    evhttp_add_header(h, "Content-Security-Policy", policy);
    evhttp_add_header(h, "X-Content-Type-Options", "nosniff");
    evhttp_add_header(h, "Referrer-Policy", "no-referrer");
    known = evhttp_find_header(evhttp_request_get_input_headers(req), "If-None-Match");
    if (known && strcmp(known, tag) == 0) {
        evhttp_send_reply(req, 304, "Not Modified", NULL);
        return 304;
    }
    struct evbuffer *body = evbuffer_new();
    if (body && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD)
        evbuffer_add_reference(body, f->data, len, NULL, NULL);
    int status = body ? 200 : 500;
    evhttp_send_reply(req, status, body ? "OK" : "Internal Server Error", body);
    if (body) evbuffer_free(body);
    return status;
}
