/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints over shared memory in a folder of their own, for tests. */
#ifndef SUPERNODE_TESTS_BUS_SHM_TEST_H
#define SUPERNODE_TESTS_BUS_SHM_TEST_H

#include "rig.h"

#include <unistd.h>

#include "bus/shm.h"

static const uint8_t shm_secret[] = "sixteen bytes and some more";

static void *shm_world_new(void) {
    char dir[] = "/tmp/supernode-bus-XXXXXX";
    assert_non_null(mkdtemp(dir));
    return strdup(dir);
}

static void shm_address(void *world, const char *name, char out[BUS_ADDRESS_BYTES]) {
    snprintf(out, BUS_ADDRESS_BYTES, "%s/%s", (const char *)world, name);
}

static void shm_world_free(void *world) {
    assert_int_equal(rmdir(world), 0); /* every endpoint removed its socket */
    free(world);
}

static struct shm_options shm_test_options(const struct bus_identity *id) {
    return (struct shm_options){.secret = shm_secret,
                                .secret_len = sizeof shm_secret - 1,
                                .identity = *id,
                                .peer_timeout_ms = 30000};
}

static struct bus *shm_endpoint(void *world, const char *name, const struct bus_identity *id,
                                struct err *err) {
    char path[BUS_ADDRESS_BYTES];
    struct shm_options o = shm_test_options(id);
    struct bus *b = NULL;
    if (name) shm_address(world, name, path);
    o.address = name ? path : NULL;
    return shm_bus_new(&b, &o, err) ? NULL : b;
}

static void shm_pass(void *world, struct bus *b) {
    (void)world;
    if (b) bus_wait(b, bus_now(b) + 1000000);
}

static struct conf_kind shm_kind = {shm_world_new, shm_world_free, shm_endpoint, shm_address,
                                    shm_pass,      NULL,           NULL};

#endif
