/* SPDX-License-Identifier: Apache-2.0 */
/* Implements file.h. Only regular files are mapped: a FIFO or device in a stranger's checkpoint
 * must not hang us. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static enum st open_regular(int *out, uint64_t *size, const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, st_from_errno(errno), "%s: cannot open: %s", path, strerror(errno));
    struct stat sb;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        close(fd);
        return err_set(err, ST_INVALID, "%s: not a regular file", path);
    }
    *out = fd;
    *size = (uint64_t)sb.st_size;
    return ST_OK;
}

enum st file_read(struct buf *out, const char *path, struct err *err) {
    int fd = STDIN_FILENO;
    uint64_t size;
    if (strcmp(path, "-") != 0) {
        enum st st = open_regular(&fd, &size, path, err);
        if (st) return st;
    }
    enum st st = ST_OK;
    char chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = err_set(err, ST_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n <= 0) break;
        st = buf_append(out, chunk, (size_t)n);
        if (st) {
            if (st == ST_FULL)
                err_set(err, st, "%s: larger than %zu bytes", path, out->max);
            else
                err_set(err, st, "%s: out of memory", path);
            break;
        }
    }
    if (fd != STDIN_FILENO) close(fd);
    return st;
}

enum st file_map_open(struct file_map *out, const char *path, struct err *err) {
    int fd;
    uint64_t size;
    enum st st = open_regular(&fd, &size, path, err);
    if (st) return st;
    void *data = NULL;
    if (size > 0) {
        data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            st = err_set(err, st_from_errno(errno), "%s: cannot map %llu bytes: %s", path,
                         (unsigned long long)size, strerror(errno));
    }
    close(fd);
    if (!st) *out = (struct file_map){.data = data, .size = size};
    return st;
}

void file_map_close(struct file_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct file_map){0};
}
