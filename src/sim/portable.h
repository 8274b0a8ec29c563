/* SPDX-License-Identifier: Apache-2.0 */
/* ln and pow by basic operations alone, whose bits are the same on every machine: libm's are not (it
 * picks other code where there is FMA), and one bit in a step's time would make another run. To about
 * 1e-15. */
#ifndef SUPERNODE_SIM_PORTABLE_H
#define SUPERNODE_SIM_PORTABLE_H

double portable_ln(double x);            /* x > 0 */
double portable_pow(double x, double y); /* x >= 0 */

#endif
