/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as YAML and as a machine's description: refused with a sentence that names the file, or a
 * tree that holds together, or a machine whose figures can be computed with. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/doc.h"
#include "sim/flow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct doc_node *n, const struct doc *of, bool in_map, uint32_t depth) {
    double v = 0;
    uint64_t u = 0;
    struct err err;
    assert(n->of == of && n->line >= 1 && depth <= 64 && in_map == (n->key != NULL));
    assert((n->kind == DOC_TEXT) == (n->text != NULL));
    for (uint32_t i = 0; i < n->n; i++) {
        const struct doc_node *c = &n->at[i];
        if (n->kind == DOC_MAP) {
            assert(doc_find(n, c->key) == c);
            if (!doc_number(n, c->key, -1e300, 1e300, &v, &err)) assert(isfinite(v));
            if (!doc_count(n, c->key, 0, 1000, &u, &err)) assert(u <= 1000);
        }
        walk(c, of, n->kind == DOC_MAP, depth + 1);
    }
}

static void use(const struct machine *m) {
    assert(m->n_planes > 0 && m->hbm_bps > 0 && machine_dies_per_node(m) > 0);
    for (uint32_t i = 0; i < m->n_planes; i++)
        for (int t = 0; t < MACHINE_TRANSFERS; t++)
            assert(!isnan(transfer_s(&m->planes[i], t, true, 1e6)));
    assert(!isnan(collective_s(m, m->planes, ALL_TO_ALL, 40, 1e6)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct doc *d;
    struct machine m;
    struct err err = {.text = ""};
    if (doc_read(&d, data, size, "fuzz", &err)) {
        assert(strncmp(err.text, "fuzz: ", 6) == 0);
        return 0;
    }
    walk(doc_root(d), d, false, 0);
    doc_free(d);
    if (machine_read(&m, data, size, "fuzz", &err))
        assert(strncmp(err.text, "fuzz: ", 6) == 0);
    else
        use(&m);
    return 0;
}
