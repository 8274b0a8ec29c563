/* SPDX-License-Identifier: Apache-2.0 */
/* TLS by OpenSSL: a server's context from a certificate chain and its key, both PEM. TLS 1.2 and
 * 1.3, no renegotiation; keys with a password are refused rather than asked for. */
#ifndef SUPERNODE_SERVE_TLS_H
#define SUPERNODE_SERVE_TLS_H

#include <openssl/ssl.h>

#include "base/err.h"

/* The caller frees *out with SSL_CTX_free. */
enum st ST_CHECKED tls_new(SSL_CTX **out, const char *cert_file, const char *key_file,
                           struct err *err);

#endif
