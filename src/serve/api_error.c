/* SPDX-License-Identifier: Apache-2.0 */
/* Implements api_error.h. The type follows from the status, as with OpenAI: whose fault it was. */
#include "serve/api_error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "serve/json_out.h"

bool api_fail(struct api_error *e, int status, const char *param, const char *code, const char *fmt,
              ...) {
    assert(status >= 400 && status < 600);
    e->status = status;
    e->code = code;
    e->retry_s = status == 503 ? 1 : 0;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return false;
}

enum st api_error_write(struct buf *out, const struct api_error *e) {
    struct json_out o = {out, ST_OK};
    json_out_raw(&o, "{\"error\":{\"message\":");
    json_out_text(&o, e->message, strlen(e->message));
    json_out_raw(&o, ",\"type\":");
    json_out_raw(&o, e->status == 429  ? "\"rate_limit_error\""
                     : e->status < 500 ? "\"invalid_request_error\""
                                       : "\"server_error\"");
    json_out_raw(&o, ",\"param\":");
    if (e->param[0])
        json_out_text(&o, e->param, strlen(e->param));
    else
        json_out_raw(&o, "null");
    json_out_raw(&o, ",\"code\":");
    if (e->code)
        json_out_text(&o, e->code, strlen(e->code));
    else
        json_out_raw(&o, "null");
    json_out_raw(&o, "}}");
    return o.st;
}

const char *api_reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    }
    return "Error";
}
