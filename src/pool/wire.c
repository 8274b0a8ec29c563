/* SPDX-License-Identifier: Apache-2.0 */
/* Implements wire.h. */
#include "pool/wire.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"

static const uint32_t item_bytes[WIRE_KINDS] = {
    [WIRE_HELLO] = sizeof(struct wire_hello),   [WIRE_OFFER] = sizeof(struct wire_offer),
    [WIRE_ANSWER] = sizeof(struct wire_answer), [WIRE_WANT] = sizeof(struct wire_want),
    [WIRE_FOUND] = sizeof(struct wire_found),   [WIRE_DOUBT] = sizeof(struct wire_doubt),
};

static bool name_ok(const char *s, size_t room) {
    return s[0] != '\0' && strnlen(s, room) < room;
}

static bool item_ok(enum wire_kind kind, const union wire_item *v) {
    switch (kind) {
    case WIRE_HELLO:
        return v->hello.version == WIRE_VERSION && name_ok(v->hello.name, BUS_NAME_BYTES);
    case WIRE_OFFER: return name_ok(v->offer.tenant, POOL_TENANT_BYTES);
    case WIRE_ANSWER: return v->answer.result < WIRE_RESULTS;
    case WIRE_WANT: return name_ok(v->want.tenant, POOL_TENANT_BYTES);
    case WIRE_FOUND: return index_place(&v->found.entry) <= PLACE_DRAM;
    case WIRE_DOUBT: return name_ok(v->doubt.tenant, POOL_TENANT_BYTES);
    case WIRE_KINDS: break;
    }
    return false;
}

void wire_item(const struct wire_message *m, uint32_t i, union wire_item *out) {
    assert(i < m->n);
    memcpy(out, m->items + (size_t)i * item_bytes[m->kind], item_bytes[m->kind]);
}

bool wire_parse(struct wire_message *m, const void *data, size_t len) {
    if (len < 8) return false;
    uint32_t kind = rd_u32le(data), n = rd_u32le((const uint8_t *)data + 4);
    if (kind == 0 || kind >= WIRE_KINDS || n == 0 || n > WIRE_ITEMS_MAX) return false;
    if (len - 8 != (size_t)n * item_bytes[kind] || (kind == WIRE_HELLO && n != 1)) return false;
    *m = (struct wire_message){(enum wire_kind)kind, n, (const uint8_t *)data + 8};
    for (uint32_t i = 0; i < n; i++) {
        union wire_item v;
        wire_item(m, i, &v);
        if (!item_ok(m->kind, &v)) return false;
    }
    return true;
}

enum st wire_send(struct bus *b, bus_id peer, enum wire_kind kind, const void *items, uint32_t n) {
    uint8_t data[8 + WIRE_ITEMS_MAX * sizeof(union wire_item)];
    uint32_t head[2] = {kind, n};
    assert(n >= 1 && n <= WIRE_ITEMS_MAX);
    memcpy(data, head, sizeof head);
    memcpy(data + 8, items, (size_t)n * item_bytes[kind]);
    return bus_send(b, peer, data, 8 + (size_t)n * item_bytes[kind]);
}
