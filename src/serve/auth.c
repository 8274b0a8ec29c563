/* SPDX-License-Identifier: Apache-2.0 */
/* Implements auth.h. */
#include "serve/auth.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "base/file.h"

enum { KEY_FILE_BYTES_MAX = 1 << 20 };

/* --- the list --------------------------------------------------------------------------------- */

static bool is_word(const char *s, size_t len_max) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f) return false;
    return n > 0 && n <= len_max;
}

static bool tenant_is_new(const struct auth *a, const char *tenant) {
    for (uint32_t i = 0; i < a->n; i++)
        if (strcmp(a->keys[i].tenant, tenant) == 0) return false;
    return true;
}

enum st auth_add(struct auth *a, const char *key, const char *tenant, const char *from,
                 struct err *err) {
    struct auth_key k = {0};
    if (!is_word(key, AUTH_KEY_BYTES_MAX))
        return err_set(err, ST_INVALID,
                       "%s: expected a key of 1 to %d printable ASCII characters without spaces",
                       from, AUTH_KEY_BYTES_MAX);
    if (*tenant && !is_word(tenant, sizeof k.tenant - 1))
        return err_set(err, ST_INVALID,
                       "%s: tenant: expected 1 to %zu printable ASCII characters without spaces",
                       from, sizeof k.tenant - 1);
    snprintf(k.tenant, sizeof k.tenant, "%s", tenant);
    SHA256((const uint8_t *)key, strlen(key), k.digest);
    for (uint32_t i = 0; i < a->n; i++)
        if (CRYPTO_memcmp(a->keys[i].digest, k.digest, sizeof k.digest) == 0)
            return err_set(err, ST_INVALID, "%s: the key was given before", from);
    bool new_tenant = tenant_is_new(a, tenant);
    if (a->n == AUTH_KEYS_MAX)
        return err_set(err, ST_INVALID, "%s: more than %d keys", from, AUTH_KEYS_MAX);
    if (new_tenant && a->n_tenants == AUTH_TENANTS_MAX)
        return err_set(err, ST_INVALID, "%s: more than %d tenants", from, AUTH_TENANTS_MAX);
    struct auth_key *v = realloc(a->keys, (a->n + 1) * sizeof *v);
    if (!v) return err_set(err, ST_NO_MEMORY, "%s: out of memory", from);
    a->keys = v;
    a->keys[a->n++] = k;
    a->n_tenants += new_tenant;
    return ST_OK;
}

/* "KEY [TENANT]", cut up in place. */
static enum st add_line(struct auth *a, char *line, const char *from, struct err *err) {
    static const char space[] = " \t\r";
    char *rest, *key = strtok_r(line, space, &rest);
    if (!key || *key == '#') return ST_OK;
    char *tenant = strtok_r(NULL, space, &rest);
    if (strtok_r(NULL, space, &rest))
        return err_set(err, ST_INVALID, "%s: found more than two words, expected KEY [TENANT]",
                       from);
    return auth_add(a, key, tenant ? tenant : "", from, err);
}

enum st auth_add_file(struct auth *a, const char *path, struct err *err) {
    struct buf text = {.max = KEY_FILE_BYTES_MAX};
    struct stat info;
    char from[300];
    enum st st = ST_OK;
    if (stat(path, &info) != 0)
        return err_set(err, st_from_errno(errno), "%s: cannot open: %s", path, strerror(errno));
    if (info.st_mode & (S_IROTH | S_IWOTH))
        return err_set(err, ST_INVALID,
                       "%s: mode %04o lets others read or write the keys, expected 0600 or 0640",
                       path, (unsigned)(info.st_mode & 07777));
    st = file_read(&text, path, err);
    if (!st && text.len && memchr(text.data, '\0', text.len))
        st = err_set(err, ST_INVALID, "%s: found a zero byte, expected text", path);
    char *rest = text.data;
    for (uint32_t n = 1; !st && rest && *rest; n++) {
        char *line = strsep(&rest, "\n");
        snprintf(from, sizeof from, "%.256s: line %u", path, n);
        st = add_line(a, line, from, err);
    }
    if (text.data) OPENSSL_cleanse(text.data, text.len);
    buf_release(&text);
    return st;
}

void auth_release(struct auth *a) {
    free(a->keys);
    *a = (struct auth){0};
}

/* --- a request -------------------------------------------------------------------------------- */

struct auth_key *auth_find(const struct auth *a, const char *header) {
    static const char scheme[] = "Bearer ";
    uint8_t digest[32];
    struct auth_key *found = NULL;
    if (!header || strncasecmp(header, scheme, sizeof scheme - 1) != 0) return NULL;
    const char *key = header + sizeof scheme - 1;
    key += strspn(key, " ");
    size_t len = strlen(key);
    while (len && key[len - 1] == ' ') len--;
    if (len == 0 || len > AUTH_KEY_BYTES_MAX) return NULL;
    SHA256((const uint8_t *)key, len, digest);
    for (uint32_t i = 0; i < a->n; i++)
        if (CRYPTO_memcmp(a->keys[i].digest, digest, sizeof digest) == 0) found = &a->keys[i];
    return found;
}

enum auth_answer auth_enter(const struct auth *a, struct auth_key *k, uint64_t now_ns,
                            uint32_t *retry_s) {
    const struct auth_limits *l = &a->limits;
    *retry_s = 1;
    if (l->requests && k->open >= l->requests) return AUTH_TOO_MANY;
    if (l->requests_per_minute) {
        double most = l->requests_per_minute, a_second = most / 60;
        double since_s = k->credit_ns ? (double)(now_ns - k->credit_ns) / 1e9 : 60;
        k->credit = fmin(most, k->credit + since_s * a_second);
        k->credit_ns = now_ns;
        if (k->credit < 1) {
            *retry_s = (uint32_t)ceil((1 - k->credit) / a_second);
            return AUTH_TOO_FAST;
        }
        k->credit -= 1;
    }
    k->open++;
    return AUTH_ADMITTED;
}

void auth_leave(struct auth_key *k) {
    assert(k->open > 0);
    k->open--;
}
