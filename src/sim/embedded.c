/* SPDX-License-Identifier: Apache-2.0 */
/* Implements embedded.h, and the list of machine.h. The assembler puts the files in. */
#include "sim/embedded.h"

#include <string.h>

#include "sim/machine.h"

#define EMBED(name, file)                                                                          \
    __asm__(".section .rodata\n" #name ":\n.incbin \"hardware/" file ".yaml\"\n" #name             \
            "_end:\n.byte 0\n.previous\n");                                                        \
    extern const char name[], name##_end[]

EMBED(hardware_cloudmatrix384, "cloudmatrix384");
EMBED(hardware_h800, "h800");
EMBED(hardware_h100, "h100");
EMBED(hardware_h200, "h200");
EMBED(hardware_gb200_nvl72, "gb200-nvl72");
EMBED(hardware_ascend310b_edge, "ascend310b-edge");
EMBED(hardware_cpu, "cpu");

static const char *const names[] = {
    "cloudmatrix384", "h800", "h100", "h200", "gb200-nvl72", "ascend310b-edge", "cpu", NULL,
};
/* In the same order. */
static const struct {
    const char *data, *end;
} files[] = {
    {hardware_cloudmatrix384, hardware_cloudmatrix384_end},
    {hardware_h800, hardware_h800_end},
    {hardware_h100, hardware_h100_end},
    {hardware_h200, hardware_h200_end},
    {hardware_gb200_nvl72, hardware_gb200_nvl72_end},
    {hardware_ascend310b_edge, hardware_ascend310b_edge_end},
    {hardware_cpu, hardware_cpu_end},
};
_Static_assert(sizeof files / sizeof *files + 1 == sizeof names / sizeof *names, "one a name");

const char *const *machine_names(void) {
    return names;
}

bool embedded_hardware(const char *name, const char **bytes, size_t *len) {
    for (size_t i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) {
            *bytes = files[i].data;
            *len = (size_t)(files[i].end - files[i].data);
            return true;
        }
    return false;
}
