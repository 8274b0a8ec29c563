/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_find.h. */
#include "cli/cluster_find.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Somebody listens there; what a router that ended left behind is no router. */
static bool listens(const char *dir) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path, sizeof a.sun_path, "%s/router.sock", dir);
    if (n < 0 || (size_t)n >= sizeof a.sun_path) return false;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool is = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    if (fd >= 0) close(fd);
    return is;
}

static bool is_ours(const char *dir) {
    struct stat s;
    return lstat(dir, &s) == 0 && S_ISDIR(s.st_mode) && s.st_uid == geteuid() &&
           (s.st_mode & 077) == 0;
}

enum st cluster_find(char out[CLUSTER_DIR_BYTES], const char *command, struct err *err) {
    char usual[CLUSTER_DIR_BYTES], dir[CLUSTER_DIR_BYTES + 300], all[300] = "";
    const char *base = cluster_base_dir();
    uint32_t found = 0;
    cluster_default_dir(usual);
    const char *usual_name = strrchr(usual, '/') + 1;
    DIR *d = opendir(base);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, usual_name) != 0 &&
            strncmp(e->d_name, CLUSTER_UP_PREFIX, strlen(CLUSTER_UP_PREFIX)) != 0)
            continue;
        int len = snprintf(dir, sizeof dir, "%s/%s", base, e->d_name);
        if (len < 0 || len >= CLUSTER_DIR_BYTES || !is_ours(dir) || !listens(dir)) continue;
        memcpy(out, dir, (size_t)len + 1);
        size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, at ? ", %s" : "%s", dir);
        found++;
    }
    if (d) closedir(d);
    if (found == 1) return ST_OK;
    if (found)
        return err_set(err, ST_INVALID, "%s: %u clusters run: %s; --cluster names one", command,
                       found, all);
    return err_set(err, ST_NOT_FOUND,
                   "%s: no cluster runs in %s or in a directory that up made; --cluster names "
                   "another",
                   command, usual);
}
