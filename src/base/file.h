/* SPDX-License-Identifier: Apache-2.0 */
/* Files as memory: a small file read whole with a limit, a large one mapped read-only. */
#ifndef SUPERNODE_BASE_FILE_H
#define SUPERNODE_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

/* Reads a regular file (or "-": stdin) whole and appends it to out (out->max bounds it). Errors
 * name the path. */
enum st ST_CHECKED file_read(struct buf *out, const char *path, struct err *err);

struct file_map {
    const uint8_t *data; /* NULL when size is 0 */
    uint64_t size;
};

/* Maps a regular file read-only. The mapping outlives changes of the directory; a file that shrinks
 * under it kills the process with SIGBUS, as with every program that maps its weights. */
enum st ST_CHECKED file_map_open(struct file_map *out, const char *path, struct err *err);
void file_map_close(struct file_map *m);

#endif
