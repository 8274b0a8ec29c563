/* SPDX-License-Identifier: Apache-2.0 */
/* Unicode's normalisation forms over a working text, so that every byte keeps its origin. */
#ifndef SUPERNODE_TEXT_UNICODE_FORM_H
#define SUPERNODE_TEXT_UNICODE_FORM_H

#include "base/err.h"
#include "text/working.h"

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* Appends the form of text to out, which owns its bytes. ST_NO_MEMORY, ST_FULL. */
enum st ST_CHECKED unicode_form(struct working *out, const struct working *text,
                                enum unicode_form form);

#endif
