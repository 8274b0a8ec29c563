/* SPDX-License-Identifier: Apache-2.0 */
/* bench/tokenizer.py's C half: tokenizer DIR FILE... prints, for each file, its best encoding time
 * of some in nanoseconds; and first the best time to load DIR. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "text/tokenizer.h"

enum { RUNS = 5 };

static int fail(const struct err *err) {
    fprintf(stderr, "%s\n", err->text);
    return 1;
}

int main(int argc, char **argv) {
    struct tokenizer *t = NULL;
    struct err err;
    uint64_t best = UINT64_MAX;
    if (argc < 2) return 2;
    for (int i = 0; i < RUNS; i++) {
        tok_free(t);
        uint64_t start = clock_now_ns();
        if (tok_open(&t, argv[1], &err)) return fail(&err);
        uint64_t took = clock_now_ns() - start;
        if (took < best) best = took;
    }
    printf("%llu\n", (unsigned long long)best);
    for (int f = 2; f < argc; f++) {
        struct buf text = {.max = 1 << 28};
        if (file_read(&text, argv[f], &err)) return fail(&err);
        best = UINT64_MAX;
        size_t n = 0;
        for (int i = 0; i < RUNS; i++) {
            struct tok_ids ids = {0};
            uint64_t start = clock_now_ns();
            if (tok_encode(&ids, t, text.data, text.len, TOK_ADDED_MATCH, &err)) return fail(&err);
            uint64_t took = clock_now_ns() - start;
            if (took < best) best = took;
            n = ids.len;
            tok_ids_release(&ids);
        }
        printf("%llu %zu\n", (unsigned long long)best, n);
        buf_release(&text);
    }
    tok_free(t);
    return 0;
}
