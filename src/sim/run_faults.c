/* SPDX-License-Identifier: Apache-2.0 */
/* What breaks in a run, and when: faults at given times and at random, and what each does to the
 * members that stand on what broke. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/run_impl.h"

const char *const run_fault_names[RUN_FAULTS + 1] = {"chip", "node", "link", "sub-plane", "pool",
                                                     "slow", "hang", "cut",  NULL};

enum { FAULTS_MAX = 2000000 };
static const double random_slow = 2;

struct run_due_fault {
    struct heap_node in;
    double at_s;
    uint64_t order; /* of those at one time */
    bool ends;
    uint32_t member; /* the only one it is for; RUN_MEMBERS_MAX: all that stand on it */
    struct run_fault fault;
};

static struct run_due_fault *due_of(struct heap_node *n) {
    return HEAP_OF(n, struct run_due_fault, in);
}

static bool sooner(const struct heap_node *x, const struct heap_node *y) {
    const struct run_due_fault *a = HEAP_OF(x, const struct run_due_fault, in),
                               *b = HEAP_OF(y, const struct run_due_fault, in);
    return a->at_s != b->at_s ? a->at_s < b->at_s : a->order < b->order;
}

static enum st add_fault(struct run *r, const struct run_fault *f, double at_s, bool ends,
                         uint32_t member, struct err *err) {
    if (r->faults.len == FAULTS_MAX)
        return err_set(err, ST_INVALID, "faults: expected at most %d in all", FAULTS_MAX / 2);
    struct run_due_fault *d = malloc(sizeof *d);
    if (!d || !heap_reserve(&r->faults, r->faults.len + 1)) {
        free(d);
        return err_set(err, ST_NO_MEMORY, "run: out of memory");
    }
    *d = (struct run_due_fault){
        .at_s = at_s, .order = r->n_faults_ever++, .ends = ends, .member = member, .fault = *f};
    heap_put(&r->faults, &d->in);
    return ST_OK;
}

static enum st add_both(struct run *r, const struct run_fault *f, struct err *err) {
    enum st st = add_fault(r, f, f->at_s, false, RUN_MEMBERS_MAX, err);
    if (!st && f->for_s > 0) st = add_fault(r, f, f->at_s + f->for_s, true, RUN_MEMBERS_MAX, err);
    return st;
}

uint32_t run_fault_places(const struct run_config *c, enum run_fault_kind kind) {
    const struct machine *m = &c->machine;
    switch (kind) {
    case RUN_NODE:
    case RUN_HANG:
    case RUN_CUT: return m->n_nodes;
    case RUN_SUB_PLANE: return m->planes[0].sub_planes ? m->planes[0].sub_planes : 1;
    case RUN_POOL: return c->pool.n;
    default: return m->n_nodes * m->chips_per_node;
    }
}

uint32_t run_fault_used(const struct run_config *c, enum run_fault_kind kind) {
    const struct machine *m = &c->machine;
    uint32_t chips = c->prefill.n * c->prefill.chips + c->decode.n * c->decode.chips,
             nodes = (chips + m->chips_per_node - 1) / m->chips_per_node;
    bool links = machine_plane(m, c->handover_plane)->die_bps > 0;
    bool carries = strcmp(m->planes[0].name, c->handover_plane) == 0 ||
                   (c->pool.n > 0 && strcmp(m->planes[0].name, c->pool.plane) == 0);
    switch (kind) {
    case RUN_NODE:
    case RUN_HANG:
    case RUN_CUT: return nodes > c->pool.n ? nodes : c->pool.n;
    case RUN_SUB_PLANE: return carries ? run_fault_places(c, kind) : 0;
    case RUN_POOL: return c->pool.n;
    case RUN_LINK: return links ? chips : 0;
    default: return chips;
    }
}

enum st run_faults_new(struct run *r, struct err *err) {
    const struct run_config *c = r->c;
    r->faults = (struct heap){.before = sooner};
    enum st st = ST_OK;
    for (uint32_t i = 0; i < c->n_faults && !st; i++) st = add_both(r, &c->faults[i], err);
    for (uint32_t k = 0; k < RUN_FAULTS && !st; k++)
        for (double at = 0; c->mtbf_s[k] > 0 && !st;) {
            at += run_draw_exponential(&r->chance) * c->mtbf_s[k];
            if (at >= c->load.duration_s || run_fault_places(c, (enum run_fault_kind)k) == 0) break;
            struct run_fault f = {.kind = (enum run_fault_kind)k,
                                  .index = (uint32_t)(run_draw(&r->chance) *
                                                      run_fault_places(c, (enum run_fault_kind)k)),
                                  .at_s = at,
                                  .for_s = k == RUN_CUT ? 0 : c->repair_s,
                                  .share = 0.1,
                                  .slow = random_slow};
            st = add_both(r, &f, err);
        }
    r->worse = st ? NULL : malloc((r->faults.len + (size_t)1) * sizeof *r->worse);
    if (!st && !r->worse) st = err_set(err, ST_NO_MEMORY, "run: out of memory");
    return st;
}

void run_faults_free(struct run *r) {
    for (uint32_t i = 0; i < r->faults.len; i++) free(due_of(r->faults.v[i]));
    heap_release(&r->faults);
    free(r->worse);
}

double run_faults_next(const struct run *r) {
    const struct run_due_fault *d = due_of(heap_first(&r->faults));
    return d ? d->at_s : INFINITY;
}

double run_stuck_s_max(const struct run_config *c) {
    double slow = c->mtbf_s[RUN_SLOW] > 0 ? random_slow : 1;
    for (uint32_t i = 0; i < c->n_faults; i++)
        if (c->faults[i].kind == RUN_SLOW) slow = fmax(slow, c->faults[i].slow);
    return 10 * RUN_STEP_S_MAX * slow + c->no_worker_s;
}

static bool stands_on(const struct run *r, const struct run_member *m, const struct run_fault *f) {
    uint32_t per_node = r->c->machine.chips_per_node, last = m->first_chip + m->n_chips - 1;
    switch (f->kind) {
    case RUN_CHIP:
    case RUN_LINK:
    case RUN_SLOW:
        return m->m.role != ROLE_OF_POOL && f->index >= m->first_chip && f->index <= last;
    case RUN_NODE:
    case RUN_HANG:
    case RUN_CUT: return f->index >= m->first_chip / per_node && f->index <= last / per_node;
    case RUN_SUB_PLANE: return true;
    case RUN_POOL: return m->m.role == ROLE_OF_POOL && f->index == m->first_chip / per_node;
    case RUN_FAULTS: return false;
    }
    return false;
}

/* --- what they do ----------------------------------------------------------------------------- */

static bool same(const struct run_fault *a, const struct run_fault *b) {
    return a->kind == b->kind && a->index == b->index && a->at_s == b->at_s &&
           a->share == b->share && a->slow == b->slow;
}

/* Of the scale-up plane: each sub-plane carries its part. */
static double sub_planes_share(const struct run *r) {
    uint32_t n = run_fault_places(r->c, RUN_SUB_PLANE);
    double sum = 0;
    for (uint32_t s = 0; s < n; s++) {
        double share = 1;
        for (uint32_t i = 0; i < r->n_worse; i++)
            if (r->worse[i].kind == RUN_SUB_PLANE && r->worse[i].index == s)
                share = fmin(share, r->worse[i].share);
        sum += share;
    }
    return sum / n;
}

/* A chip's link is that of its dies. */
static void set_links(const struct run *r, const struct run_member *m, struct run_links *l,
                      bool chips, double share) {
    for (uint32_t k = 0; k < l->n; k++) l->v[k].share = 1;
    for (uint32_t i = 0; i < r->n_worse && chips; i++) {
        const struct run_fault *f = &r->worse[i];
        if (f->kind != RUN_LINK || !stands_on(r, m, f)) continue;
        uint32_t each = l->n / m->n_chips, from = (f->index - m->first_chip) * each;
        for (uint32_t k = from; k < from + each; k++) l->v[k].share = fmin(l->v[k].share, f->share);
    }
    for (uint32_t k = 0; k < l->n; k++) l->v[k].share *= share;
}

/* The slowest of a member's chips is waited for. */
static void set_member(const struct run *r, struct run_member *m, double sub_planes) {
    m->slow = 1;
    for (uint32_t i = 0; i < r->n_worse; i++)
        if (r->worse[i].kind == RUN_SLOW && stands_on(r, m, &r->worse[i]))
            m->slow = fmax(m->slow, r->worse[i].slow);
    m->exec.slow = m->slow;
    for (int p = 0; p < RUN_PLANES; p++) {
        double share = r->planes[p] == &r->c->machine.planes[0] ? sub_planes : 1;
        bool chips =
            r->planes[p] == r->planes[0]; /* the hand-over's, whose links have such faults */
        set_links(r, m, &m->in[p], chips, share);
        set_links(r, m, &m->out[p], chips, share);
    }
}

/* Of faults on one place the worst counts; so all are looked at anew. */
static void set_worse(struct run *r, const struct run_due_fault *d) {
    if (!d->ends) {
        r->worse[r->n_worse++] = d->fault;
    } else {
        uint32_t i = 0;
        while (!same(&r->worse[i], &d->fault)) i++;
        r->worse[i] = r->worse[--r->n_worse];
    }
    double sub_planes = sub_planes_share(r);
    for (uint32_t k = 0; k < r->n_members; k++) set_member(r, &r->members[k], sub_planes);
}

static double restart_of(const struct run *r, const struct run_member *m) {
    if (m->m.role == ROLE_OF_POOL) return 0;
    return m->m.role == ROLE_OF_PREFILL ? r->c->prefill.restart_s : r->c->decode.restart_s;
}

static void broken(struct run *r, enum st st) {
    r->broken = r->broken || st;
}

static void kill(struct run *r, struct run_member *m, const struct run_due_fault *d) {
    uint32_t i = (uint32_t)(m - r->members);
    double restart_s = restart_of(r, m);
    if (!d->ends) {
        if (m->down++ == 0 && m->m.there) run_member_end(r, m);
    } else if (restart_s > 0 && d->member != i) {
        /* mended, but it must load its weights first */
        broken(r, add_fault(r, &d->fault, d->at_s + restart_s, true, i, &r->err));
    } else if (--m->down == 0 && !r->broken) {
        broken(r, run_member_begin(r, m, &r->err));
    }
}

static void hang(struct run *r, struct run_member *m, bool ends) {
    if (!ends) {
        if (m->hung++ == 0 && m->m.there) sim_member_stop(&m->m);
    } else if (--m->hung == 0 && m->m.there && m->m.stopped) { /* not one that came again since */
        sim_member_continue(&r->cluster, &m->m);
    }
}

static void cut(struct run *r, struct run_member *m) {
    if (!m->m.there) return;
    sim_bus_break(m->m.bus, r->cluster.bus);
    for (uint32_t i = 0; i < r->n_members; i++)
        if (r->members[i].m.there && &r->members[i] != m)
            sim_bus_break(m->m.bus, r->members[i].m.bus);
}

static void apply(struct run *r, const struct run_due_fault *d) {
    if (d->fault.kind == RUN_SLOW || d->fault.kind == RUN_LINK || d->fault.kind == RUN_SUB_PLANE) {
        set_worse(r, d);
        return;
    }
    for (uint32_t i = 0; i < r->n_members; i++) {
        struct run_member *m = &r->members[i];
        if (!stands_on(r, m, &d->fault) || (d->member != RUN_MEMBERS_MAX && d->member != i))
            continue;
        switch (d->fault.kind) {
        case RUN_HANG: hang(r, m, d->ends); break;
        case RUN_CUT: cut(r, m); break;
        case RUN_CHIP:
        case RUN_NODE:
        case RUN_POOL: kill(r, m, d); break;
        case RUN_LINK:
        case RUN_SUB_PLANE:
        case RUN_SLOW:
        case RUN_FAULTS: break;
        }
    }
}

void run_faults_apply(struct run *r) {
    for (struct run_due_fault *d;
         (d = due_of(heap_first(&r->faults))) && run_ns(d->at_s) <= sim_cluster_now(&r->cluster);) {
        heap_take(&r->faults, &d->in);
        if (!d->ends) {
            r->n_faults++;
            r->n_faults_unused += d->fault.index >= run_fault_used(r->c, d->fault.kind);
        }
        apply(r, d);
        free(d);
    }
}

void run_faults_report(const struct run *r, struct run_report *o) {
    o->faults = r->n_faults;
    o->faults_unused = r->n_faults_unused;
    for (uint32_t i = 0; i < r->faults.len; i++) o->faults_late += !due_of(r->faults.v[i])->ends;
}
