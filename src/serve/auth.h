/* SPDX-License-Identifier: Apache-2.0 */
/* API keys: who may ask, as which tenant, and how much at once. Keys are kept as SHA-256 digests
 * and compared in constant time, all of them for every request, so that neither memory nor time
 * tells one. A key may name a tenant: prefix-cache blocks are found only by requests of the tenant
 * that made them. Control code: the time is an argument. */
#ifndef SUPERNODE_SERVE_AUTH_H
#define SUPERNODE_SERVE_AUTH_H

#include "engine/request.h"

enum { AUTH_KEYS_MAX = 1024, AUTH_TENANTS_MAX = 64, AUTH_KEY_BYTES_MAX = 512 };

struct auth_limits {
    uint32_t requests;            /* of one key that wait or run; 0: no limit */
    uint32_t requests_per_minute; /* of one key, as many at once; 0: no limit */
};

struct auth_key {
    uint8_t digest[32];
    char tenant[REQUEST_ID_BYTES]; /* "": of all keys that name none */
    uint32_t open;                 /* requests admitted and not released */
    double credit;                 /* requests that may come now */
    uint64_t credit_ns;            /* when that was so */
};

struct auth {
    struct auth_limits limits;
    struct auth_key *keys; /* [n]; none: everyone may ask */
    uint32_t n, n_tenants;
};

/* from names the place in errors ("--api-key", "keys.txt: line 3"); tenant "" names none. A key that
 * is there already is refused. */
enum st ST_CHECKED auth_add(struct auth *a, const char *key, const char *tenant, const char *from,
                            struct err *err);
/* One key a line, "KEY" or "KEY TENANT"; empty lines and lines with # in front are skipped. A file
 * that others can read is refused. */
enum st ST_CHECKED auth_add_file(struct auth *a, const char *path, struct err *err);
void auth_release(struct auth *a);

/* The key in an Authorization header ("Bearer KEY"; may be NULL), or NULL. */
struct auth_key *auth_find(const struct auth *a, const char *header);

enum auth_answer { AUTH_ADMITTED, AUTH_TOO_MANY, AUTH_TOO_FAST };
/* Counts a request of k, which auth_leave ends; *retry_s says when to come again if it may not. */
enum auth_answer auth_enter(const struct auth *a, struct auth_key *k, uint64_t now_ns,
                            uint32_t *retry_s);
void auth_leave(struct auth_key *k);

#endif
