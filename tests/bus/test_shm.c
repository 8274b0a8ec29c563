/* SPDX-License-Identifier: Apache-2.0 */
/* The bus over shared memory behaves as every bus does, between real processes too, and a stranger
 * can do nothing but be refused. */
#include "conformance.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus/shm.h"

static const uint8_t secret[] = "sixteen bytes and some more";

static void *world_new(void) {
    char dir[] = "/tmp/supernode-bus-XXXXXX";
    assert_non_null(mkdtemp(dir));
    return strdup(dir);
}

static void address(void *world, const char *name, char out[BUS_ADDRESS_BYTES]) {
    snprintf(out, BUS_ADDRESS_BYTES, "%s/%s", (const char *)world, name);
}

static void world_free(void *world) {
    assert_int_equal(rmdir(world), 0); /* every endpoint removed its socket */
    free(world);
}

static struct shm_options options(const struct bus_identity *id) {
    return (struct shm_options){.secret = secret,
                                .secret_len = sizeof secret - 1,
                                .identity = *id,
                                .peer_timeout_ms = 30000};
}

static struct bus *endpoint(void *world, const char *name, const struct bus_identity *id,
                            struct err *err) {
    char path[BUS_ADDRESS_BYTES];
    struct shm_options o = options(id);
    struct bus *b = NULL;
    if (name) address(world, name, path);
    o.address = name ? path : NULL;
    return shm_bus_new(&b, &o, err) ? NULL : b;
}

static void pass(void *world, struct bus *b) {
    (void)world;
    bus_wait(b, bus_now(b) + 1000000);
}

static struct conf_kind shm = {world_new, world_free, endpoint, address, pass, NULL, NULL};

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFORMANCE(&shm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
