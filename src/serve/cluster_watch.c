/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_watch.h. */
#include "serve/cluster_watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct cluster_watch {
    const struct log *log;
    struct cluster_view next; /* being made */
    pthread_mutex_t lock;
    struct cluster_view view;
};

enum st cluster_watch_new(struct cluster_watch **out, const struct log *log, struct err *err) {
    struct cluster_watch *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ST_NO_MEMORY, "router: out of memory");
    w->log = log;
    pthread_mutex_init(&w->lock, NULL);
    *out = w;
    return ST_OK;
}

void cluster_watch_free(struct cluster_watch *w) {
    if (!w) return;
    pthread_mutex_destroy(&w->lock);
    free(w);
}

struct cluster_view *cluster_watch_next(struct cluster_watch *w) {
    return &w->next;
}

/* Events that the last view did not have get a line in the log, oldest first. */
static void log_events(struct cluster_watch *w) {
    const struct cluster_view *next = &w->next, *last = &w->view;
    uint64_t n_new = next->events_total - last->events_total;
    uint32_t n = n_new < next->n_events ? (uint32_t)n_new : next->n_events;
    char line[CLUSTER_EVENT_BYTES + 16];
    for (uint32_t i = n; i-- > 0;) {
        snprintf(line, sizeof line, "router: %s", next->events[i].text);
        log_event(w->log, LOG_INFO, line, NULL);
    }
}

void cluster_watch_publish(struct cluster_watch *w) {
    log_events(w);
    pthread_mutex_lock(&w->lock);
    w->view = w->next;
    pthread_mutex_unlock(&w->lock);
}

void cluster_watch_view(struct cluster_watch *w, struct cluster_view *out) {
    pthread_mutex_lock(&w->lock);
    *out = w->view;
    pthread_mutex_unlock(&w->lock);
}

bool cluster_watch_ready(struct cluster_watch *w, enum member_role *lacking) {
    bool there[MEMBER_ROLES] = {false};
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < w->view.n_members; i++)
        if (w->view.members[i].state == MEMBER_READY) there[w->view.members[i].role] = true;
    pthread_mutex_unlock(&w->lock);
    *lacking = there[ROLE_OF_PREFILL] ? ROLE_OF_DECODE : ROLE_OF_PREFILL;
    return there[ROLE_OF_PREFILL] && there[ROLE_OF_DECODE];
}
