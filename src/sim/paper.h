/* SPDX-License-Identifier: Apache-2.0 */
/* The comparison with what was published (published/cloudmatrix.yaml): each row is computed under the
 * conditions that stand beside it. The only reader of published numbers. */
#ifndef SUPERNODE_SIM_PAPER_H
#define SUPERNODE_SIM_PAPER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { PAPER_ROWS_MAX = 256 };

struct paper_row {
    const char *table, *row, *unit;     /* live as long as the paper */
    const char *no;                     /* why it is not computed, else NULL */
    double published, simulated, error; /* error: simulated over published, less 1 */
    double interpolated;                /* from the others of its series; NAN: it has none */
    bool calibrated;
};

struct paper_score { /* of rows that were computed and not used to calibrate */
    uint32_t n, calibrated, not_computed;
    double median;             /* of |error| */
    uint32_t over_15, over_25; /* percent */
};

struct paper;
enum st ST_CHECKED paper_open(struct paper **out, struct err *err);
void paper_free(struct paper *p); /* NULL is allowed */
uint32_t paper_rows(const struct paper *p, const struct paper_row **rows);
void paper_score(const struct paper *p, struct paper_score *out);

#endif
