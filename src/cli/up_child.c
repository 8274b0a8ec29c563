/* SPDX-License-Identifier: Apache-2.0 */
/* Implements up_child.h. */
#include "cli/up_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/turn.h"

enum { TAIL_BYTES = 16384 };

void child_init(struct child *c, const char *name, const char *dir) {
    *c = (struct child){0};
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->log, sizeof c->log, "%s/%s.log", dir, name);
    child_arg(c, "supernode");
}

void child_arg(struct child *c, const char *fmt, ...) {
    va_list ap;
    size_t room = sizeof c->text - c->text_len;
    va_start(ap, fmt);
    int n = vsnprintf(c->text + c->text_len, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= room || c->argc == CHILD_ARGS_MAX) {
        c->full = true;
        return;
    }
    c->argv[c->argc++] = c->text + c->text_len;
    c->text_len += (uint32_t)n + 1;
}

void child_set(struct child *c, const char *flag, const char *value) {
    for (uint32_t i = 0; i + 1 < c->argc; i++) {
        if (strcmp(c->argv[i], flag) != 0) continue;
        uint32_t last = c->argc;
        child_arg(c, "%s", value); /* its text; then its place */
        if (c->argc == last) return;
        c->argv[i + 1] = c->argv[--c->argc];
        c->argv[c->argc] = NULL;
        return;
    }
}

void child_print(const struct child *c) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_./:=,@%+";
    for (uint32_t i = 0; i < c->argc; i++) {
        const char *word = c->argv[i];
        bool quote = !*word || strspn(word, plain) != strlen(word);
        printf(quote ? "%s'%s'" : "%s%s", i ? " " : "", word);
    }
    printf("\n");
}

/* In the child, until exec: only what is safe after fork. */
static void become(const struct child *c, const char *exe, int log_fd, int null_fd, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    turn_usual(); /* a bench that starts servers has short ones */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it ended before we asked to be told */
    if (dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0) _exit(1);
    execv(exe, (char *const *)c->argv);
    static const char failed[] = "supernode: up: cannot run the binary again\n";
    (void)!write(2, failed, sizeof failed - 1);
    _exit(1);
}

enum st child_start(struct child *c, const char *exe, uint64_t now_ns, struct err *err) {
    if (c->full) return err_set(err, ST_INVALID, "up: %s: its command line is too long", c->name);
    int anew = c->started_ns ? 0 : O_TRUNC;
    int log_fd = open(c->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | anew, 0600);
    if (log_fd < 0) return err_set(err, ST_IO, "up: %s: cannot open: %s", c->log, strerror(errno));
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t parent = getpid(), pid = null_fd < 0 ? -1 : fork();
    if (pid == 0) become(c, exe, log_fd, null_fd, parent);
    int why = errno;
    close(log_fd);
    if (null_fd >= 0) close(null_fd);
    if (pid < 0) return err_set(err, ST_IO, "up: cannot start %s: %s", c->name, strerror(why));
    c->pid = pid;
    c->started_ns = now_ns;
    c->restart_at_ns = 0;
    return ST_OK;
}

void child_signal(const struct child *c, int signal_number) {
    if (c->pid > 0) kill(c->pid, signal_number);
}

/* --- its log ---------------------------------------------------------------------------------- */

static size_t read_tail(const struct child *c, char out[TAIL_BYTES + 1]) {
    FILE *f = fopen(c->log, "re");
    size_t n = 0;
    if (f) {
        if (fseek(f, -TAIL_BYTES, SEEK_END) != 0) rewind(f);
        n = fread(out, 1, TAIL_BYTES, f);
        fclose(f);
    }
    out[n] = '\0';
    return n;
}

void child_last_line(const struct child *c, char out[CHILD_LINE_BYTES]) {
    char tail[TAIL_BYTES + 1];
    size_t end = read_tail(c, tail);
    while (end > 0 && (tail[end - 1] == '\n' || tail[end - 1] == ' ')) end--;
    size_t begin = end;
    while (begin > 0 && tail[begin - 1] != '\n') begin--;
    snprintf(out, CHILD_LINE_BYTES, "%.*s", (int)(end - begin), tail + begin);
}

bool child_said(const struct child *c, const char *word, char *out, size_t size) {
    char tail[TAIL_BYTES + 1];
    bool found = false;
    read_tail(c, tail);
    for (char *line = tail, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        if (strncmp(line, word, strlen(word)) != 0) continue;
        const char *at = line + strlen(word);
        at += strspn(at, " ");
        snprintf(out, size, "%.*s", (int)strcspn(at, " "), at);
        found = true;
    }
    return found;
}
