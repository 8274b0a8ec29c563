/* SPDX-License-Identifier: Apache-2.0 */
/* Implements memory.h from /proc/meminfo and the control group's files (version 2, then 1). */
#include "base/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool read_number(const char *path, uint64_t *out) {
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, out) == 1; /* "max" is no number */
    if (f) fclose(f);
    return ok;
}

static uint64_t machine_available(void) {
    char line[128];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

/* Page cache that the group is charged for and the kernel takes back. */
static uint64_t group_cache(const char *path) {
    char line[128];
    uint64_t sum = 0, v;
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "inactive_file %" SCNu64, &v) == 1) sum += v;
        if (sscanf(line, "active_file %" SCNu64, &v) == 1) sum += v;
    }
    if (f) fclose(f);
    return sum;
}

uint64_t memory_available(void) {
    static const char *const files[][3] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
         "/sys/fs/cgroup/memory.stat"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat"},
    };
    uint64_t available = machine_available(), limit, used;
    for (int i = 0; i < 2; i++) {
        if (!read_number(files[i][0], &limit) || !read_number(files[i][1], &used)) continue;
        uint64_t left = (limit > used ? limit - used : 0) + group_cache(files[i][2]);
        if (left > limit) left = limit;
        if (left < available) available = left;
    }
    return available;
}
