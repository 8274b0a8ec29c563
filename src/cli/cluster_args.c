/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_args.h. */
#include "cli/cluster_args.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { POOL_UNSENT_MAX = 4 << 20 };
enum { NAMES_TRIED = CLUSTER_MEMBERS_MAX, PATH_BYTES = CLUSTER_DIR_BYTES + 64 };

void cluster_args_init(struct cluster_args *a, const char *command) {
    *a = (struct cluster_args){.command = command,
                               .peer_timeout_ms = 3000,
                               .metrics_port = METRICS_PORT_NONE,
                               .lock_fd = -1};
}

static const char *cluster_help(const char *command) {
    if (strcmp(command, "up") == 0)
        return "the cluster's directory (default: one of its own, removed at the end)";
    if (strcmp(command, "ctl") == 0)
        return "the cluster's directory (default: that of the one that runs, where it is one)";
    return "the cluster's directory (default $XDG_RUNTIME_DIR/supernode, or /tmp/supernode-UID)";
}

uint32_t cluster_args_flags(struct flag out[CLUSTER_FLAGS_MAX], struct cluster_args *a) {
    const struct flag flags[] = {
        {"cluster", "DIR", FLAG_STR, &a->dir_flag, 0, 0, cluster_help(a->command), false},
        {"secret-file", "FILE", FLAG_STR, &a->secret_file, 0, 0,
         "the cluster's secret, mode 0600 (default DIR/secret, made by who comes first)", true},
        {"peer-timeout-ms", "MS", FLAG_U32, &a->peer_timeout_ms, 50, 600000,
         "silence after which a member counts as dead (default 3000)", true},
    };
    static_assert(sizeof flags / sizeof *flags <= CLUSTER_FLAGS_MAX, "room for all");
    memcpy(out, flags, sizeof flags);
    return sizeof flags / sizeof *flags;
}

uint32_t member_args_flags(struct flag out[MEMBER_FLAGS_MAX], struct cluster_args *a) {
    const struct flag flags[] = {
        {"name", "NAME", FLAG_STR, &a->name_flag, 0, 0,
         "its name in the cluster (default: a letter of its role and the first free number)",
         false},
        {"metrics-port", "N", FLAG_U32, &a->metrics_port, 0, 65535,
         "serve /metrics, /health and /live on 127.0.0.1 (default: not; 0: any free port)", true},
        {"log-format", "text|json", FLAG_CHOICE, &a->log_format, 0, 0, "log lines (default text)",
         true},
    };
    static_assert(sizeof flags / sizeof *flags <= MEMBER_FLAGS_MAX, "room for all");
    memcpy(out, flags, sizeof flags);
    return sizeof flags / sizeof *flags;
}

/* --- the directory ---------------------------------------------------------------------------- */

const char *cluster_base_dir(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    return runtime && *runtime ? runtime : "/tmp";
}

void cluster_default_dir(char out[CLUSTER_DIR_BYTES]) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (runtime && *runtime)
        snprintf(out, CLUSTER_DIR_BYTES, "%s/supernode", runtime);
    else
        snprintf(out, CLUSTER_DIR_BYTES, "/tmp/supernode-%u", (unsigned)geteuid());
}

/* Sockets and the secret lie there: who can enter can speak as a member, and who owns it can replace
 * them. */
static enum st check_dir(const struct cluster_args *a, const char *dir, struct err *err) {
    struct stat s;
    if (lstat(dir, &s) != 0)
        return err_set(err, ST_IO, "%s: --cluster: %s: %s", a->command, dir, strerror(errno));
    if (!S_ISDIR(s.st_mode))
        return err_set(err, ST_INVALID, "%s: --cluster: %s is no directory", a->command, dir);
    if (s.st_uid != geteuid())
        return err_set(err, ST_INVALID, "%s: --cluster: %s belongs to user %u, not to us (%u)",
                       a->command, dir, (unsigned)s.st_uid, (unsigned)geteuid());
    if (s.st_mode & 077)
        return err_set(err, ST_INVALID,
                       "%s: --cluster: %s has mode %04o, expected 0700: others must not enter it",
                       a->command, dir, (unsigned)(s.st_mode & 07777));
    return ST_OK;
}

static enum st open_dir(struct cluster_args *a, bool *made, struct err *err) {
    char dir[CLUSTER_DIR_BYTES], real[PATH_MAX];
    if (a->dir_flag)
        snprintf(dir, sizeof dir, "%s", a->dir_flag);
    else
        cluster_default_dir(dir);
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/';) dir[--n] = '\0';
    *made = mkdir(dir, 0700) == 0;
    if (!*made && errno != EEXIST)
        return err_set(err, st_from_errno(errno), "%s: --cluster: cannot make %s: %s", a->command,
                       dir, strerror(errno));
    enum st st = check_dir(a, dir, err);
    if (st) return st;
    if (!realpath(dir, real) || strlen(real) >= sizeof a->dir)
        return err_set(err, ST_IO, "%s: --cluster: %s: no such path", a->command, dir);
    snprintf(a->dir, sizeof a->dir, "%s", real);
    return ST_OK;
}

static enum st socket_path(const struct cluster_args *a, char out[BUS_ADDRESS_BYTES],
                           const char *name, struct err *err) {
    int n = snprintf(out, BUS_ADDRESS_BYTES, "%.*s/%s.sock", BUS_ADDRESS_BYTES, a->dir, name);
    if (n > 0 && n < BUS_ADDRESS_BYTES) return ST_OK;
    return err_set(err, ST_INVALID,
                   "%s: --cluster: %s is too long for a socket's path (at most %d bytes with the "
                   "name)",
                   a->command, a->dir, BUS_ADDRESS_BYTES - 1);
}

enum st cluster_open(struct cluster_args *a, struct err *err) {
    char secret[PATH_BYTES];
    bool made = false;
    enum st st = open_dir(a, &made, err);
    if (st) return st;
    st = socket_path(a, a->router, "router", err);
    if (st) {
        if (made) rmdir(a->dir);
        return st;
    }
    snprintf(secret, sizeof secret, "%s/secret", a->dir);
    const char *path = a->secret_file ? a->secret_file : secret;
    if (!a->secret_file) st = bus_secret_make(path, err);
    if (!st) st = bus_secret_read(&a->secret, &a->secret_len, path, err);
    return st;
}

/* --- the name --------------------------------------------------------------------------------- */

static bool is_name(const char *name) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t len = strlen(name);
    return len > 0 && len < BUS_NAME_BYTES && strspn(name, ok) == len && name[0] != '.' &&
           name[0] != '-';
}

/* A lock, which ends with the process however it ends. ST_FULL: somebody alive has the name. */
static enum st try_name(struct cluster_args *a, const char *name, struct err *err) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s.lock", a->dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, ST_IO, "%s: %s: cannot open: %s", a->command, path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return err_set(err, ST_FULL, "%s: %s runs already in %s", a->command, name, a->dir);
    }
    a->lock_fd = fd;
    snprintf(a->name, sizeof a->name, "%s", name);
    return socket_path(a, a->address, name, err);
}

static bool is_taken(const char *name) {
    return strcmp(name, "router") == 0 || strcmp(name, "up") == 0;
}

enum st cluster_take_name(struct cluster_args *a, const char *prefix, struct err *err) {
    char name[BUS_NAME_BYTES];
    if (is_taken(prefix)) return try_name(a, prefix, err);
    if (a->name_flag && (!is_name(a->name_flag) || is_taken(a->name_flag)))
        return err_set(err, ST_INVALID,
                       "%s: --name: found '%.40s', expected up to %d letters, digits, '-', '_' or "
                       "'.', and not router or up",
                       a->command, a->name_flag, BUS_NAME_BYTES - 1);
    if (a->name_flag) return try_name(a, a->name_flag, err);
    for (int i = 0; i < NAMES_TRIED; i++) {
        snprintf(name, sizeof name, "%s%d", prefix, i);
        enum st st = try_name(a, name, err);
        if (st != ST_FULL) return st;
    }
    return err_set(err, ST_FULL, "%s: %s0 to %s%d all run already in %s", a->command, prefix,
                   prefix, NAMES_TRIED - 1, a->dir);
}

static struct bus_identity identity_of(const struct cluster_args *a, enum proto_peer who,
                                       const char *model_id, const char *profile) {
    struct bus_identity i = {.hello = {(uint8_t)who}, .hello_len = 1};
    snprintf(i.name, sizeof i.name, "%s", a->name);
    snprintf(i.model_id, sizeof i.model_id, "%s", model_id);
    snprintf(i.profile, sizeof i.profile, "%s", profile);
    return i;
}

enum st cluster_bus(struct bus **out, const struct cluster_args *a, enum proto_peer who,
                    const char *address, const char *model_id, const char *profile,
                    struct err *err) {
    struct shm_options o = {.address = address,
                            .secret = a->secret,
                            .secret_len = a->secret_len,
                            .identity = identity_of(a, who, model_id, profile),
                            .peer_timeout_ms = a->peer_timeout_ms};
    if (who == PROTO_PEER_POOL) o.unsent_max = POOL_UNSENT_MAX; /* it says little, to many */
    return shm_bus_new(out, &o, err);
}

void cluster_bus_is_of(struct bus *b, const struct cluster_args *a, enum proto_peer who,
                       const char *model_id, const char *profile) {
    struct bus_identity i = identity_of(a, who, model_id, profile);
    shm_bus_set_identity(b, &i);
}

void cluster_close(struct cluster_args *a) {
    free(a->secret);
    a->secret = NULL;
    if (a->lock_fd >= 0) close(a->lock_fd);
    a->lock_fd = -1;
}
