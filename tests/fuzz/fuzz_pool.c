/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile bytes for the memory pool, after a first byte that says for whom: messages and segments
 * for a server, the same for a client, an index segment and a data segment that a client looks into
 * and fetches from, or a record's header on the SSD. Refused, or a miss. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pool/client_impl.h"
#include "pool/server_impl.h"
#include "sim/core/sim_bus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 4 };
static const struct block_shape shape = {.n_layers = 2, .layer_bytes = 64, .tail_bytes = 16};

struct scene {
    struct sim_net *net;
    struct bus *honest, *hostile;
    bus_id peer; /* of the honest one, as the hostile one sees it */
    struct pool_server *server;
    struct pool_client *client;
    uint8_t *memory;
};

static void begin(struct scene *s) {
    struct sim_net_options o = {.seed = 1, .delay_ns_min = 1, .delay_ns_max = 10, .close_ns = 100};
    struct bus_identity id = {.name = "n"};
    struct err err;
    *s = (struct scene){0};
    enum st st = sim_net_new(&s->net, &o, &err);
    if (!st) st = sim_bus_new(&s->honest, s->net, "honest", &id, &err);
    if (!st) st = sim_bus_new(&s->hostile, s->net, "hostile", &id, &err);
    assert(!st);
}

static void begin_server(struct scene *s) {
    struct err err;
    struct pool_server_options o = {
        .bus = s->honest, .shape = shape, .dram_bytes = 3 * slot_bytes(&shape), .epoch = 1};
    enum st st = pool_server_new(&s->server, &o, &err);
    assert(!st);
    s->peer = bus_connect(s->hostile, "honest");
}

static void begin_client(struct scene *s) {
    struct err err;
    void *memory;
    bus_id segment;
    enum st st = bus_segment_new(s->honest, paged_bytes(&shape, PAGES), BUS_PEERS_READ, &segment,
                                 &memory, &err);
    assert(!st);
    s->memory = memory;
    struct pool_client_options o = {.bus = s->honest,
                                    .name = "c",
                                    .shape = shape,
                                    .n_pages = PAGES,
                                    .memory = memory,
                                    .segment = segment,
                                    .timeout_ns = 1000000};
    st = pool_client_new(&s->client, &o, &err);
    assert(!st);
    pool_client_server(s->client, "hostile", "hostile", 1);
}

static void settle(struct scene *s) {
    struct bus_event ev;
    for (int i = 0; i < 40; i++) {
        while (bus_next(s->hostile, &ev))
            if (ev.kind == BUS_UP) s->peer = ev.peer;
        while (bus_next(s->honest, &ev))
            if (s->server)
                pool_server_event(s->server, &ev);
            else
                pool_client_event(s->client, &ev);
        if (s->server) pool_server_step(s->server, sim_net_now(s->net));
        if (s->client) pool_client_step(s->client, sim_net_now(s->net));
        if (s->client) pool_client_copy(s->client);
        sim_net_advance(s->net, sim_net_now(s->net) + 20);
    }
}

static void end(struct scene *s) {
    pool_server_free(s->server);
    pool_client_free(s->client);
    bus_free(s->honest);
    bus_free(s->hostile);
    sim_net_free(s->net);
}

static void say(struct scene *s, const void *bytes, size_t len) {
    if (s->peer && bus_send(s->hostile, s->peer, bytes, len)) return;
}

/* A segment of these bytes. */
static void share(struct scene *s, const uint8_t *bytes, size_t len, size_t room, uint64_t tag) {
    bus_id id;
    void *memory;
    if (!s->peer || bus_segment_new(s->hostile, room, BUS_PEERS_READ, &id, &memory, NULL)) return;
    memcpy(memory, bytes, len < room ? len : room);
    if (bus_share(s->hostile, s->peer, id, tag)) return;
}

static void hello(struct scene *s) {
    uint8_t bytes[8 + sizeof(struct wire_hello)];
    uint32_t head[2] = {WIRE_HELLO, 1};
    struct wire_hello h = {.version = WIRE_VERSION, .n_pages = PAGES, .shape = shape, .name = "x"};
    memcpy(bytes, head, sizeof head);
    memcpy(bytes + 8, &h, sizeof h);
    say(s, bytes, sizeof bytes);
}

/* Pieces, each: length, then kind (with the top bit: as it is; else a header is made), then bytes. */
static void speak(struct scene *s, const uint8_t *data, size_t size) {
    while (size >= 3) {
        size_t len = (size_t)data[0] * 4 + data[1] % 4;
        uint8_t kind = data[2];
        data += 3;
        size -= 3;
        if (len > size) len = size;
        if (kind >= 0xf0) {
            share(s, data, len, 64 + len * 16, wire_tag((enum wire_segment)(kind & 7), 256));
        } else if (kind >= 0x80) {
            say(s, data, len);
        } else {
            static const uint32_t bytes_of[] = {
                0,
                sizeof(struct wire_hello),
                sizeof(struct wire_offer),
                sizeof(struct wire_answer),
                sizeof(struct wire_want),
                sizeof(struct wire_found),
                sizeof(struct wire_doubt),
            };
            uint32_t head[2] = {kind % WIRE_KINDS, 1 + kind / 32};
            uint8_t message[8 + 4 * sizeof(union wire_item)] = {0};
            size_t whole = 8 + head[1] * (size_t)bytes_of[head[0]];
            memcpy(message, head, sizeof head);
            memcpy(message + 8, data, len < whole - 8 ? len : whole - 8);
            say(s, message, whole);
        }
        data += len;
        size -= len;
        settle(s);
    }
}

static void to_server(const uint8_t *data, size_t size) {
    struct scene s;
    uint8_t none[1] = {0};
    begin(&s);
    begin_server(&s);
    settle(&s);
    hello(&s);
    share(&s, none, 1, paged_bytes(&shape, PAGES), wire_tag(WIRE_PAGES, 0));
    share(&s, data, size, sizeof(struct hit_ring), wire_tag(WIRE_HITS, 0));
    settle(&s);
    speak(&s, data, size);
    settle(&s);
    end(&s);
}

/* The client stores, looks up and fetches meanwhile. */
static void done(void *ctx, uint32_t page) {
    (void)page;
    *(bool *)ctx = true;
}

static void to_client(const uint8_t *data, size_t size, bool index) {
    struct scene s;
    struct pool_key keys[2] = {{{0}}, {{0}}};
    uint8_t bytes[INDEX_HEADER_BYTES + 2 * INDEX_BUCKET_BYTES] = {0};
    struct index_header h = {.shape = shape, .n_buckets = 2, .epoch = 1};
    begin(&s);
    begin_client(&s);
    settle(&s);
    hello(&s);
    index_header_seal(&h);
    memcpy(bytes, &h, sizeof h);
    struct index_entry *entries = (struct index_entry *)(void *)(bytes + INDEX_HEADER_BYTES);
    size_t n = index ? (size < 1024 ? size : 1024) : 0;
    if (index) memcpy(entries, data, n);
    for (int i = 0; i < 16 && index; i++) /* so that some of them are believed */
        if (entries[i].sequence % 2 == 0) {
            entries[i].tenant = index_tenant("t");
            if (i % 3) memset(&entries[i].key, 0, sizeof entries[i].key);
            entries[i].check = index_entry_check(&entries[i]);
        }
    if (index && size > n && data[n] == 0xff)
        memcpy(bytes, data + n, size - n < 64 ? size - n : 64);
    share(&s, bytes, sizeof bytes, sizeof bytes, wire_tag(WIRE_INDEX, 0));
    share(&s, data, size, 3 * slot_bytes(&shape), wire_tag(WIRE_DATA, 256));
    settle(&s);
    bool ended = false;
    bool offered = pool_offer(s.client, "t", &keys[0], 1, done, &ended);
    struct pool_lookup *l = pool_lookup_begin(s.client, "t", keys, 2);
    settle(&s);
    uint32_t found, pages[2] = {2, 3};
    struct block_gate gate;
    struct pool_fetch *f = NULL;
    if (l && pool_lookup_over(l, &found) && found > 0)
        f = pool_fetch_begin(s.client, l, 0, found, pages, &gate);
    pool_lookup_free(l);
    speak(&s, data, index ? 0 : size);
    settle(&s);
    sim_net_advance(s.net, sim_net_now(s.net) + 3000000); /* everything is late now */
    settle(&s);
    if (f) {
        assert(pool_fetch_over(f));
        assert(atomic_load(&gate.parts) <= block_parts(&shape));
        pool_fetch_free(f);
    }
    assert(ended == offered);
    end(&s);
}

static void ssd_header(const uint8_t *data, size_t size) {
    uint32_t bytes = ssd_head_bytes(&shape);
    struct ssd_head *h = aligned_alloc(SSD_ALIGN, bytes);
    memset(h, 0, bytes);
    memcpy(h, data, size < bytes ? size : bytes);
    if (ssd_head_ok(h, &shape, (uint32_t)h->rec)) {
        assert(strnlen(h->tenant, sizeof h->tenant) < sizeof h->tenant);
        assert(block_shape_equal(&h->shape, &shape));
    }
    free(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    switch (data[0] % 4) {
    case 0: to_server(data + 1, size - 1); break;
    case 1: to_client(data + 1, size - 1, false); break;
    case 2: to_client(data + 1, size - 1, true); break;
    default: ssd_header(data + 1, size - 1);
    }
    return 0;
}
