/* SPDX-License-Identifier: Apache-2.0 */
/* splitmix64 (Steele, Lea, Flood 2014), from which all chance of simulations is made: a step of its
 * state with the finaliser behind it, and numbers drawn from a state. */
#ifndef SUPERNODE_SIM_CORE_MIX_H
#define SUPERNODE_SIM_CORE_MIX_H

#include <stdint.h>

static const uint64_t sim_mix_step = 0x9e3779b97f4a7c15u;

static inline uint64_t sim_mix(uint64_t x) {
    x += sim_mix_step;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t sim_mix_draw(uint64_t *state) {
    uint64_t drawn = sim_mix(*state);
    *state += sim_mix_step;
    return drawn;
}

#endif
