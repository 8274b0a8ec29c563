/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a template, up to a NUL, and any JSON after it as the variables (a conversation if
 * there is none). Whatever it is: an error with a sentence, or a prompt whose every byte has an
 * origin; within small limits. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "text/chat_limits.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
    "\"Gr\u00fc\u00dfe \\\"x\\\"\\n\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
    "\"arguments\":{\"a\":[1,2.5,null,true]}}}]},"
    "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}]}],\"tools\":[{"
    "\"function\":{\"name\":\"f\"}}],"
    "\"bos_token\":\"<s>\",\"n\":5,\"l\":[3,1,2],\"d\":{\"k\":\"v\"},\"s\":\"a b,c\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct chat_limits limits = {.memory_bytes = 8 << 20, .steps = 100000};
    const char *text = (const char *)data, *nul = memchr(data, '\0', size);
    size_t len = nul ? (size_t)(nul - text) : size;
    struct err err = {0};
    struct chat_template *t;
    if (chat_template_new(&t, text, len, "fuzz", &err)) {
        assert(strncmp(err.text, "fuzz: ", 6) == 0);
        return 0;
    }
    json_t *context = NULL;
    if (!nul || json_parse(&context, nul + 1, size - len - 1, "fuzz", &err) ||
        !json_is_object(context)) {
        json_decref(context);
        context = NULL;
        enum st st =
            json_parse(&context, conversation, sizeof conversation - 1, "conversation", &err);
        assert(st == ST_OK);
        (void)st;
    }
    struct chat_prompt p;
    if (chat_template_render_within(&p, t, context, 1700000000, &limits, &err) == ST_OK) {
        assert(p.text.len == p.origin.len);
        assert(utf8_valid_prefix(p.text.data ? p.text.data : "", p.text.len) == p.text.len);
        for (size_t i = 0; i < p.origin.len; i++)
            assert((uint8_t)p.origin.data[i] <= CHAT_FROM_OTHER);
    } else {
        assert(strncmp(err.text, "fuzz: ", 6) == 0);
    }
    chat_prompt_release(&p);
    json_decref(context);
    chat_template_free(t);
    return 0;
}
