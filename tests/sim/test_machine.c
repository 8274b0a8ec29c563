/* SPDX-License-Identifier: Apache-2.0 */
/* Hardware from files: the figures of those in the binary, and what is said of bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/doc.h"
#include "sim/machine.h"

static const char small[] = "name: small\n"
                            "sources: {BOOK: where it stands}\n"
                            "die:\n"
                            "  cube_cores: {value: 4, source: BOOK 1}\n"
                            "  vector_cores: {value: 4, source: BOOK 1}\n"
                            "  bf16_tflops: {value: 10, source: BOOK 1}\n"
                            "  hbm_gb: {value: 8, source: BOOK 1}\n"
                            "  hbm_gbs: {value: 100, source: BOOK 1}\n"
                            "chip: {dies: {value: 1, source: BOOK 1}}\n"
                            "node: {chips: {value: 2, source: BOOK 1}}\n"
                            "cluster: {nodes: {value: 3, source: 'estimate: three is enough'}}\n"
                            "planes:\n"
                            "  - name: net\n"
                            "    die_gbs: {value: 20, source: BOOK 2}\n"
                            "    uplink_gbs: {value: 40, source: BOOK 2}\n"
                            "    paths:\n"
                            "      source: BOOK 3\n"
                            "      other_node: {read: {gbs: 15, us: 2}}\n"
                            "operators:\n"
                            "  - {name: attention, share: 0.5, calibrated: row 3}\n";

/* small with one line's text replaced. */
static void refused(const char *old, const char *new, const char *sentence) {
    char text[4096];
    struct machine m;
    struct err err;
    const char *at = strstr(small, old);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - small), small, new, at + strlen(old));
    assert_int_equal(machine_read(&m, text, strlen(text), "f", &err), ST_INVALID);
    assert_string_equal(err.text, sentence);
}

static void a_file_becomes_a_machine_in_units_of_one(void **state) {
    (void)state;
    struct machine m;
    struct err err;
    if (machine_read(&m, small, strlen(small), "f", &err)) fail_msg("%s", err.text);
    assert_string_equal(m.name, "small");
    assert_true(m.peak[TYPE_BF16] == 10e12 && m.peak[TYPE_INT8] == 0);
    assert_true(m.hbm_bytes == 8e9 && m.hbm_bps == 100e9);
    assert_int_equal(machine_dies_per_node(&m), 2);
    const struct machine_plane *p = machine_plane(&m, "net");
    assert_non_null(p);
    assert_true(p->die_bps == 20e9 && p->uplink_bps == 40e9 && p->sub_planes == 1);
    assert_true(p->other_node[TRANSFER_READ].rate_bps == 15e9);
    assert_true(p->other_node[TRANSFER_READ].latency_s == 2e-6);
    assert_true(p->same_node[TRANSFER_READ].rate_bps == 0);
    assert_null(machine_plane(&m, "ub"));
    assert_true(machine_operator(&m, "attention")->share == 0.5);
    assert_true(machine_operator(&m, "dispatch")->fixed_s > 0); /* by default */
    assert_non_null(machine_operator(&m, "no such"));
}

static void bad_files_are_told_line_and_key(void **state) {
    (void)state;
    refused("hbm_gb:", "hbm_gib:", "f: line 7: hbm_gib: unknown key; did you mean hbm_gb?");
    refused("  hbm_gb: {value: 8, source: BOOK 1}\n", "", "f: line 3: die: hbm_gb is missing");
    refused("{value: 8, source: BOOK 1}", "8",
            "f: line 7: hbm_gb: found no source, expected {value: ..., source: ...}");
    refused("{value: 8, source: BOOK 1}", "{value: 8}", "f: line 7: hbm_gb: source is missing");
    refused("{value: 8, source: BOOK 1}", "{value: 8 GB, source: BOOK 1}",
            "f: line 7: hbm_gb: found 8 GB, expected a number of 0.001 to 1e+06");
    refused("{value: 8, source: BOOK 1}", "{value: 0, source: BOOK 1}",
            "f: line 7: hbm_gb: found 0, expected a number of 0.001 to 1e+06");
    refused("{value: 8, source: BOOK 1}", "{value: 8, source: hearsay}",
            "f: line 7: source: found 'hearsay', expected it to begin with one of the file's "
            "sources, 'estimate:' or 'derived:'");
    refused("'estimate: three is enough'", "'estimate: x'",
            "f: line 11: source: found 'estimate: x', expected a reason behind it");
    refused("{value: 2, source: BOOK 1}", "{value: 2.5, source: BOOK 1}",
            "f: line 10: chips: found 2.5, expected a whole number");
    refused("gbs: 15", "gbs: 25", "f: line 18: gbs: found 25, expected at most the link's 20");
    refused("value: 40", "value: 10",
            "f: line 15: uplink_gbs: found 10, expected no less than the link of 20 below it");
    refused("bf16_tflops", "bf_tflops",
            "f: line 6: bf_tflops: unknown key; did you mean bf16_tflops?");
    refused("bf16_tflops", "int8_tops", "f: line 3: die: bf16_tflops is missing");
    refused("uplink_gbs: {value: 40, source: BOOK 2}\n    paths:\n      source: BOOK 3\n"
            "      other_node: {read: {gbs: 15",
            "cpu_gbs: {value: 10, source: BOOK 2}\n    paths:\n      source: BOOK 3\n"
            "      other_node: {read_cpu: {gbs: 15",
            "f: line 18: gbs: found 15, expected at most the link's 10");
    refused("name: net", "name: Net!",
            "f: line 13: name: found 'Net!', expected 1 to 63 of a-z, 0-9, '-', '_' and '.'");
    refused("share: 0.5", "share: 0.01",
            "f: line 20: operator attention: found a share of 0.01, expected 0.2 to 1");
    refused(", calibrated: row 3", "", "f: line 20: calibrated is missing");
    struct machine m;
    struct err err;
    assert_int_equal(machine_open(&m, "h900", &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "hardware h900: unknown, expected cloudmatrix384, h800"));
    assert_int_equal(machine_open(&m, "./nowhere.yaml", &err), ST_NOT_FOUND);
}

/* cloudmatrix-facts: P2 3.3. */
static void cloudmatrix384_is_what_the_paper_says(void **state) {
    (void)state;
    struct machine m;
    struct err err;
    if (machine_open(&m, "cloudmatrix384", &err)) fail_msg("%s", err.text);
    assert_int_equal(m.cube_cores, 24);
    assert_int_equal(m.vector_cores, 48);
    assert_int_equal(machine_dies_per_node(&m) * m.n_nodes, 768);
    assert_int_equal(m.cpus_per_node * m.n_nodes, 192);
    assert_true(m.peak[TYPE_INT8] == 752e12 && m.peak[TYPE_FP8] == 0 &&
                m.peak[TYPE_BF16] == 376e12);
    assert_true(m.hbm_bytes == 64e9 && m.hbm_bps == 1600e9);
    const struct machine_plane *ub = machine_plane(&m, "ub"), *rdma = machine_plane(&m, "rdma"),
                               *vpc = machine_plane(&m, "vpc");
    assert_ptr_equal(ub, &m.planes[0]);
    assert_true(ub->uplink_bps == machine_dies_per_node(&m) * ub->die_bps);
    assert_int_equal(ub->sub_planes, 7);
    assert_true(rdma->die_bps == 25e9 && vpc->node_bps == 50e9 && vpc->die_bps == 0);
    assert_true(m.graphs_ahead);
}

/* Whoever reads a figure of ours finds where it comes from; one from memory says so. */
static void every_embedded_file_opens_and_names_its_sources(void **state) {
    (void)state;
    uint32_t n = 0;
    for (const char *const *name = machine_names(); *name; name++, n++) {
        struct machine m;
        struct err err;
        struct doc *d;
        char path[128];
        if (machine_open(&m, *name, &err)) fail_msg("%s", err.text);
        assert_string_equal(m.name, *name);
        snprintf(path, sizeof path, "hardware/%s.yaml", *name);
        if (doc_open(&d, path, &err)) fail_msg("%s", err.text);
        const struct doc_node *sources = doc_find(doc_root(d), "sources");
        assert_non_null(sources);
        for (uint32_t i = 0; i < sources->n; i++)
            if (strcmp(sources->at[i].key, "MEMORY") == 0)
                assert_non_null(strstr(sources->at[i].text, "unverified"));
        doc_free(d);
    }
    assert_int_equal(n, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_becomes_a_machine_in_units_of_one),
        cmocka_unit_test(bad_files_are_told_line_and_key),
        cmocka_unit_test(cloudmatrix384_is_what_the_paper_says),
        cmocka_unit_test(every_embedded_file_opens_and_names_its_sources),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
