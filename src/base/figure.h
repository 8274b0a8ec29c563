/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers in formulas and tables that people read: four digits at least, whole numbers in full,
 * without an exponent. */
#ifndef SUPERNODE_BASE_FIGURE_H
#define SUPERNODE_BASE_FIGURE_H

struct figure {
    char text[40];
};

/* "12340", "138", "4.644", "0.000035"; what is below a millionth is "0", and 1e15 and more, which nothing
 * here is, gets its exponent after all. Used as figure_of(v).text inside one expression. */
struct figure figure_of(double v);

#endif
