/* SPDX-License-Identifier: Apache-2.0 */
/* Implements pull.h. A pull goes through its parts in order, and in each part through the blocks
 * whose rows the board calls final; when the table is complete it takes the rest, the state, and
 * then looks at every generation and the epoch once more. */
#include "cluster/pull.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/proto.h"
#include "model/kv.h"

enum {
    WINDOW = 8,       /* reads under way for one pull */
    COMPLETIONS = 32, /* taken at a time */
};

/* A layer takes longer than this, and who only looks should leave the core to who computes. */
static const uint64_t look_default_ns = 1000000;

enum stage {
    PULL_ROWS,  /* pieces of blocks */
    PULL_STATE, /* the executor's state, from the board */
    PULL_CHECK, /* generations and epoch */
    PULL_OVER
};

struct pull {
    struct pull *next; /* in the inbox, then in the copying thread's list */
    struct puller *p;
    uint64_t id;
    struct pull_source from;
    const uint32_t *to;
    uint32_t n_blocks, n_there;
    /* Inputs: written by the owner under the lock. */
    struct pull_page *table; /* [n_blocks] */
    uint32_t n_table;
    bool complete;
    atomic_bool told;      /* inputs that the copying thread has not taken; without the lock */
    atomic_bool cancelled; /* likewise */
    /* The copying thread's. */
    struct pull_page *pages; /* [n_blocks] its copy of the table */
    uint32_t n_pages;
    bool all, failed;
    enum stage stage;
    uint32_t *copied; /* [parts] blocks of each that were asked for */
    uint8_t *board;   /* what was read of the entry */
    bool board_asked;
    uint64_t look_ns; /* not at the board again before */
    uint32_t in_flight, checked;
    uint64_t *generations, epoch, flight; /* read back */
    uint8_t *state;
    atomic_bool over; /* release: everything above is final */
};

struct puller {
    struct bus *bus;
    struct bus_queue *queue; /* made by the copying thread */
    struct block_shape shape;
    uint8_t *memory;
    uint32_t n_pages, slot_bytes, entry_bytes;
    uint64_t look_ns;
    pthread_mutex_t lock;  /* of the inbox and of inputs */
    struct pull *inbox;    /* begun, the oldest first */
    struct pull *active;   /* the copying thread's, the oldest first */
    uint64_t n_ids, waits; /* the owner's */
    atomic_uint_least64_t n_failed, bytes;
};

enum st puller_new(struct puller **out, struct bus *bus, const struct block_shape *shape,
                   uint8_t *memory, uint32_t n_pages, uint32_t slot_bytes, uint64_t look_ns,
                   struct err *err) {
    struct puller *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "hand-over: out of memory");
    *p = (struct puller){.bus = bus,
                         .shape = *shape,
                         .memory = memory,
                         .n_pages = n_pages,
                         .slot_bytes = slot_bytes,
                         .look_ns = look_ns ? look_ns : look_default_ns,
                         .entry_bytes = proto_entry_bytes(block_parts(shape), slot_bytes)};
    pthread_mutex_init(&p->lock, NULL);
    *out = p;
    return ST_OK;
}

static void destroy(struct pull *u) {
    free(u->table);
    free(u->pages);
    free(u->copied);
    free(u->board);
    free(u->generations);
    free(u->state);
    free(u);
}

/* Behind what is there already. */
static void append(struct pull **list, struct pull *u) {
    while (*list) list = &(*list)->next;
    *list = u;
}

static void take_inbox(struct puller *p) {
    pthread_mutex_lock(&p->lock);
    struct pull *u = p->inbox;
    p->inbox = NULL;
    pthread_mutex_unlock(&p->lock);
    if (u) append(&p->active, u);
}

void puller_free(struct puller *p) {
    if (!p) return;
    bus_queue_free(p->queue);
    take_inbox(p);
    for (struct pull *u = p->active, *next; u; u = next) {
        next = u->next;
        destroy(u);
    }
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* --- the owner's side ------------------------------------------------------------------------- */

/* The copying thread holds the lock for no copy; that it is met at all is counted. */
static void owner_lock(struct puller *p) {
    if (pthread_mutex_trylock(&p->lock) == 0) return;
    pthread_mutex_lock(&p->lock);
    p->waits++;
}

static size_t at_least_one(uint32_t n) {
    return n ? n : 1;
}

struct pull *pull_begin(struct puller *p, const struct pull_source *from, const uint32_t *pages,
                        uint32_t n_pages, uint32_t n_there, uint32_t n_rows) {
    uint32_t parts = block_parts(&p->shape), n = (n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    assert(n <= n_pages && n_there <= n);
    struct pull *u = calloc(1, sizeof *u);
    if (!u) return NULL;
    *u = (struct pull){.p = p, .from = *from, .to = pages, .n_blocks = n, .n_there = n_there};
    u->table = calloc(at_least_one(n), sizeof *u->table);
    u->pages = calloc(at_least_one(n), sizeof *u->pages);
    u->copied = calloc(parts, sizeof *u->copied);
    u->board = calloc(1, p->entry_bytes);
    u->generations = calloc(at_least_one(n), sizeof *u->generations);
    u->state = calloc(1, at_least_one(p->slot_bytes));
    if (!u->table || !u->pages || !u->copied || !u->board || !u->generations || !u->state) {
        destroy(u);
        return NULL;
    }
    for (uint32_t i = 0; i < parts; i++) u->copied[i] = n_there;
    u->id = ++p->n_ids;
    owner_lock(p);
    append(&p->inbox, u);
    pthread_mutex_unlock(&p->lock);
    return u;
}

enum st pull_table(struct pull *u, const struct pull_page *pages, uint32_t n, bool complete) {
    if (n > u->n_blocks || (complete && n != u->n_blocks)) return ST_INVALID;
    for (uint32_t i = 0; i < n; i++)
        if (pages[i].page >= u->from.n_pages) return ST_INVALID;
    owner_lock(u->p);
    memcpy(u->table, pages, n * sizeof *pages);
    u->n_table = n;
    u->complete = complete;
    pthread_mutex_unlock(&u->p->lock);
    atomic_store_explicit(&u->told, true, memory_order_release);
    return ST_OK;
}

void pull_cancel(struct pull *u) {
    atomic_store_explicit(&u->cancelled, true, memory_order_relaxed);
}

bool pull_over(struct pull *u, bool *ok, const void **state) {
    if (!atomic_load_explicit(&u->over, memory_order_acquire)) return false;
    *ok = !u->failed;
    *state = u->state;
    return true;
}

void pull_free(struct pull *u) {
    assert(atomic_load_explicit(&u->over, memory_order_acquire));
    destroy(u);
}

void puller_stats(struct puller *p, struct puller_stats *out) {
    *out = (struct puller_stats){.pulls = p->n_ids,
                                 .failed = atomic_load_explicit(&p->n_failed, memory_order_relaxed),
                                 .bytes = atomic_load_explicit(&p->bytes, memory_order_relaxed),
                                 .waits = p->waits};
}

/* --- the copying side ------------------------------------------------------------------------- */

static bool same_page(const struct pull_page *a, const struct pull_page *b) {
    return a->page == b->page && a->generation == b->generation;
}

/* Takes the inputs. A page of the table that changed is copied again, and what the board said before
 * was said of the old one. */
static void take_inputs(struct pull *u) {
    uint32_t parts = block_parts(&u->p->shape), same = 0;
    pthread_mutex_lock(&u->p->lock);
    while (same < u->n_pages && same < u->n_table && same_page(&u->pages[same], &u->table[same]))
        same++;
    if (same < u->n_pages) memset(u->board, 0, u->p->entry_bytes);
    memcpy(u->pages + same, u->table + same, (u->n_table - same) * sizeof *u->table);
    u->n_pages = u->n_table;
    u->all = u->complete;
    pthread_mutex_unlock(&u->p->lock);
    for (uint32_t i = 0; i < parts; i++)
        if (u->copied[i] > same && u->copied[i] > u->n_there)
            u->copied[i] = same > u->n_there ? same : u->n_there;
}

static bool ask(struct pull *u, bus_id segment, uint64_t at, void *to, size_t len) {
    enum st st = bus_read(u->p->queue, segment, at, to, len, u->id);
    if (st == ST_FULL) return false;
    if (st)
        u->failed = true;
    else
        u->in_flight++;
    return !st;
}

static bool ask_piece(struct pull *u, uint32_t part, uint32_t block) {
    const struct puller *p = u->p;
    uint32_t len = block_part_bytes(&p->shape, part);
    uint64_t from = paged_at(&p->shape, u->from.n_pages, part, u->pages[block].page),
             to = paged_at(&p->shape, p->n_pages, part, u->to[block]);
    if (!ask(u, u->from.pages, from, p->memory + to, len)) return false;
    atomic_fetch_add_explicit(&u->p->bytes, len, memory_order_relaxed);
    return true;
}

/* Whole blocks of a part that may be copied now. */
static uint32_t blocks_ready(const struct pull *u, uint32_t part) {
    if (u->all) return u->n_blocks;
    uint32_t rows;
    memcpy(&rows, u->board + sizeof(uint64_t) + 4 * (size_t)part, sizeof rows);
    uint32_t n = rows / KV_PAGE_TOKENS;
    return n < u->n_pages ? n : u->n_pages;
}

/* The board's entry says how far it is, and whose it is. */
static bool board_is_ours(const struct pull *u) {
    return rd_u64le(u->board) == u->from.flight;
}

static bool ask_board(struct pull *u) {
    size_t len = sizeof(uint64_t) + 4 * (size_t)block_parts(&u->p->shape);
    return ask(u, u->from.board, proto_entry_at(u->from.entry, u->p->entry_bytes), u->board, len);
}

/* True: something was asked for. */
static bool advance_rows(struct pull *u) {
    uint32_t parts = block_parts(&u->p->shape);
    bool any = false;
    if (!u->all && u->in_flight == 0) {
        /* what the board said last time is copied; look again */
        if (!u->board_asked) {
            uint64_t now = bus_now(u->p->bus);
            if (u->n_pages == u->n_there || now < u->look_ns) return false;
            u->look_ns = now + u->p->look_ns;
            u->board_asked = ask_board(u);
            return false;
        }
        u->board_asked = false;
        if (!board_is_ours(u)) memset(u->board, 0, u->p->entry_bytes);
    }
    if (!u->all && u->board_asked) return false;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t ready = blocks_ready(u, part);
        while (u->copied[part] < ready) {
            if (u->in_flight >= WINDOW || !ask_piece(u, part, u->copied[part])) return any;
            u->copied[part]++;
            any = true;
        }
    }
    if (!u->all || u->in_flight > 0) return any;
    u->stage = PULL_STATE;
    u->board_asked = false; /* it is, anew */
    return true;
}

static bool advance_state(struct pull *u) {
    const struct puller *p = u->p;
    if (u->in_flight > 0) return false;
    if (!u->board_asked) {
        u->board_asked = ask(u, u->from.board, proto_entry_at(u->from.entry, p->entry_bytes),
                             u->board, p->entry_bytes);
        return u->board_asked;
    }
    if (!board_is_ours(u)) u->failed = true;
    memcpy(u->state, u->board + proto_entry_state_at(block_parts(&p->shape)), p->slot_bytes);
    u->stage = PULL_CHECK;
    return true;
}

/* The i-th thing to look at again: the pages, then the board's epoch, then the entry's flight. */
static bool ask_check(struct pull *u, uint32_t i) {
    const struct puller *p = u->p;
    if (i < u->n_blocks)
        return ask(u, u->from.pages,
                   paged_generation_at(&p->shape, u->from.n_pages, u->pages[i].page),
                   &u->generations[i], sizeof u->generations[i]);
    if (i == u->n_blocks) return ask(u, u->from.board, 0, &u->epoch, sizeof u->epoch);
    return ask(u, u->from.board, proto_entry_at(u->from.entry, p->entry_bytes), &u->flight,
               sizeof u->flight);
}

/* Only now: a generation that still stands says that nothing was overwritten before. */
static bool advance_check(struct pull *u) {
    bool any = false;
    for (; u->checked < u->n_blocks + 2; u->checked++, any = true) {
        if (u->in_flight >= WINDOW || !ask_check(u, u->checked)) return any;
    }
    if (u->in_flight > 0) return any;
    for (uint32_t b = u->n_there; b < u->n_blocks; b++)
        if (u->generations[b] != u->pages[b].generation) u->failed = true;
    if (u->epoch != u->from.epoch || u->flight != u->from.flight) u->failed = true;
    u->stage = PULL_OVER;
    return any;
}

/* It leaves the list first: its owner may free it as soon as it is over. */
static void finish(struct pull *u) {
    struct puller *p = u->p;
    struct pull **at = &p->active;
    while (*at != u) at = &(*at)->next;
    *at = u->next;
    if (u->failed && !atomic_load_explicit(&u->cancelled, memory_order_relaxed))
        atomic_fetch_add_explicit(&p->n_failed, 1, memory_order_relaxed);
    atomic_store_explicit(&u->over, true, memory_order_release);
    bus_wake(p->bus);
}

static bool advance(struct pull *u) {
    /* with reads under way for an older table, a later one must wait */
    if (u->stage == PULL_ROWS && u->in_flight == 0 &&
        atomic_exchange_explicit(&u->told, false, memory_order_acquire))
        take_inputs(u);
    if (atomic_load_explicit(&u->cancelled, memory_order_relaxed)) u->failed = true;
    if (u->failed || u->stage == PULL_OVER) {
        if (u->in_flight > 0) return false;
        finish(u);
        return true;
    }
    switch (u->stage) {
    case PULL_ROWS: return advance_rows(u);
    case PULL_STATE: return advance_state(u);
    case PULL_CHECK: return advance_check(u) || u->stage == PULL_OVER; /* finished next time */
    case PULL_OVER: return false;
    }
    return false;
}

static struct pull *find(struct puller *p, uint64_t id) {
    struct pull *u = p->active;
    while (u && u->id != id) u = u->next;
    return u;
}

static bool take_completions(struct puller *p) {
    struct bus_completion v[COMPLETIONS];
    uint32_t n = bus_completions(p->queue, v, COMPLETIONS);
    for (uint32_t i = 0; i < n; i++) {
        struct pull *u = find(p, v[i].cookie); /* one with reads under way is not over */
        assert(u && u->in_flight > 0);
        u->in_flight--;
        if (v[i].status != BUS_DONE) u->failed = true;
    }
    return n > 0;
}

bool puller_copy(struct puller *p) {
    struct err err;
    if (!p->queue && bus_queue_new(p->bus, &p->queue, &err)) return false;
    take_inbox(p);
    bool any = take_completions(p);
    for (struct pull *u = p->active, *next; u; u = next) {
        next = u->next; /* u may end */
        any = advance(u) || any;
    }
    return any;
}
