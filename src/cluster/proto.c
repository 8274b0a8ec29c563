/* SPDX-License-Identifier: Apache-2.0 */
/* Implements proto.h: the compound fields. */
#include "cluster/proto.h"

const char *member_role_name(enum member_role role) {
    static const char *const names[MEMBER_ROLES] = {"prefill", "decode", "pool"};
    return names[role];
}

const char *member_state_name(enum member_state state) {
    static const char *const names[] = {"ready", "suspended", "draining"};
    return names[state];
}

void proto_put_shape(struct wire_out *w, const struct block_shape *s) {
    wire_put_u32(w, s->n_layers);
    wire_put_u32(w, s->layer_bytes);
    wire_put_u32(w, s->tail_bytes);
}

void proto_get_shape(struct wire_in *r, struct block_shape *s) {
    s->n_layers = wire_get_u32(r);
    s->layer_bytes = wire_get_u32(r);
    s->tail_bytes = wire_get_u32(r);
    if (s->n_layers > BLOCK_LAYERS_MAX || s->layer_bytes % 8 || s->tail_bytes % 4) r->bad = true;
}

/* The struct is plain numbers without padding that matters; both ends are of one version, and the
 * length is checked. */
void proto_put_load(struct wire_out *w, const struct member_load *l) {
    wire_put_u32(w, (uint32_t)sizeof *l);
    wire_put(w, l, sizeof *l);
}

void proto_get_load(struct wire_in *r, struct member_load *l) {
    if (wire_get_u32(r) != sizeof *l) r->bad = true;
    const void *p = wire_get(r, sizeof *l);
    if (p) memcpy(l, p, sizeof *l);
}

/* The whole struct: it only goes to ctl, a process of the same binary. */
void proto_put_view(struct wire_out *w, const struct cluster_view *v) {
    wire_put_u32(w, (uint32_t)sizeof *v);
    wire_put(w, v, sizeof *v);
}

static bool ended(const char *text, size_t size) {
    return memchr(text, 0, size) != NULL;
}

void proto_get_view(struct wire_in *r, struct cluster_view *v) {
    if (wire_get_u32(r) != sizeof *v) r->bad = true;
    const void *p = wire_get(r, sizeof *v);
    if (!p) return;
    memcpy(v, p, sizeof *v);
    if (v->n_members > CLUSTER_MEMBERS_MAX || v->n_events > CLUSTER_EVENTS) r->bad = true;
    for (uint32_t i = 0; i < v->n_members && !r->bad; i++) {
        const struct member_info *m = &v->members[i];
        if ((uint32_t)m->role >= MEMBER_ROLES || (uint32_t)m->state > MEMBER_DRAINING ||
            !ended(m->name, sizeof m->name) || !ended(m->address, sizeof m->address))
            r->bad = true;
    }
    for (uint32_t i = 0; i < v->n_events && !r->bad; i++)
        if (!ended(v->events[i].text, sizeof v->events[i].text)) r->bad = true;
}
