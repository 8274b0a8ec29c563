/* SPDX-License-Identifier: Apache-2.0 */
/* How long the kernel lets a thread run before others that wait have their turn. */
#ifndef SUPERNODE_BASE_TURN_H
#define SUPERNODE_BASE_TURN_H

/* The calling thread wakes up often, for little: it takes short turns, and gets the core sooner from
 * those that compute beside it (Linux 6.12; before, and where it may not, all stays as it is, and it may
 * wait for the end of their turn, up to a tick of 4 ms). It gets no larger share. Threads and processes
 * that it starts later inherit that. */
void turn_short(void);
/* Turns of the usual length again; only makes system calls, as a process must after fork. */
void turn_usual(void);

#endif
