/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's secret: a file of its owner's alone. */
#include "bus/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECRET_MIN = 16, SECRET_MAX = 4096, SECRET_NEW = 32 };

static enum st check(int fd, const char *path, struct err *err) {
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))
        return err_set(err, ST_INVALID, "%s: no regular file", path);
    if (s.st_uid != geteuid())
        return err_set(err, ST_INVALID, "%s: belongs to user %u, expected %u", path, s.st_uid,
                       geteuid());
    if (s.st_mode & 077)
        return err_set(err, ST_INVALID, "%s: mode %04o, expected 0600: others may read the secret",
                       path, s.st_mode & 07777);
    return ST_OK;
}

enum st bus_secret_read(uint8_t **out, size_t *len, const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, st_from_errno(errno), "%s: cannot open: %s", path, strerror(errno));
    enum st st = check(fd, path, err);
    uint8_t *data = st ? NULL : malloc(SECRET_MAX + 1);
    if (!st && !data) st = err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    ssize_t n = st ? 0 : read(fd, data, SECRET_MAX + 1);
    close(fd);
    while (n > 0 && (data[n - 1] == '\n' || data[n - 1] == '\r')) n--; /* an editor's line end */
    if (!st && n < 0)
        st = err_set(err, ST_IO, "%s: cannot read", path);
    else if (!st && (n < SECRET_MIN || n > SECRET_MAX))
        st = err_set(err, ST_INVALID, "%s: %zd bytes, expected %d to %d", path, n, SECRET_MIN,
                     SECRET_MAX);
    if (st) {
        free(data);
        return st;
    }
    *out = data;
    *len = (size_t)n;
    return ST_OK;
}

/* A file of this name that is there was left by a process that had our number and is dead. */
static int open_new(const char *path) {
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, fd = open(path, flags, 0600);
    if (fd >= 0 || errno != EEXIST || unlink(path) != 0) return fd;
    return open(path, flags, 0600);
}

/* Written whole under another name and then linked: who comes second finds the first one's. On disk
 * before it has its name: a crash of the machine may leave none, and not an empty one. */
enum st bus_secret_make(const char *path, struct err *err) {
    uint8_t random[SECRET_NEW];
    char hex[2 * SECRET_NEW + 2], temporary[4096];
    if (access(path, F_OK) == 0) return ST_OK;
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return err_set(err, ST_IO, "%s: no random bytes", path);
    for (int i = 0; i < SECRET_NEW; i++) snprintf(hex + 2 * i, 3, "%02x", random[i]);
    strcat(hex, "\n");
    if (snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid()) >=
        (int)sizeof temporary)
        return err_set(err, ST_INVALID, "%s: the path is too long", path);
    int fd = open_new(temporary);
    bool ok = fd >= 0 && write(fd, hex, 2 * SECRET_NEW + 1) == 2 * SECRET_NEW + 1 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (ok && link(temporary, path) != 0 && errno != EEXIST) {
        why = errno;
        ok = false;
    }
    if (fd >= 0) unlink(temporary);
    return ok ? ST_OK
              : err_set(err, st_from_errno(why), "%s: cannot make it: %s", path, strerror(why));
}
