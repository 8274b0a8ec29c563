/* SPDX-License-Identifier: Apache-2.0 */
/* Whether drafting pays (speculative decoding, lossless by contracts 7). A verified draft costs a
 * row and the MTP block; what that is worth depends on how many sequences share the step, so time
 * per token is measured with and without, by batch size, and the faster way is taken. The other way
 * is tried again now and then, ever more rarely while nothing changes. */
#ifndef SUPERNODE_ENGINE_SPEC_H
#define SUPERNODE_ENGINE_SPEC_H

#include <stdbool.h>
#include <stdint.h>

enum speculate { SPECULATE_AUTO, SPECULATE_OFF, SPECULATE_ON };

enum { SPEC_SIZES = 12 }; /* batch sizes 1, 2, 3-4, 5-8, ... */

struct spec_size {
    double ns_per_token[2]; /* moving averages, [drafting] */
    uint32_t samples[2];
    bool drafting;                /* the way that is taken */
    uint32_t probe_left;          /* steps that the other way is still tried, at most */
    uint32_t until_probe, period; /* steps */
};

struct spec {
    enum speculate mode;
    struct spec_size sizes[SPEC_SIZES];
};

void spec_init(struct spec *s, enum speculate mode);
/* Whether to draft for the next step of so many sequences. Once a step. */
bool spec_wanted(struct spec *s, uint32_t n_seqs);
/* A step of n_seqs took ns and brought n_tokens. drafting: it verified drafts of its sequences and
 * made new ones; only steps that did so for nearly all or for none are told. */
void spec_measured(struct spec *s, uint32_t n_seqs, bool drafting, uint64_t ns, uint32_t n_tokens);

#endif
