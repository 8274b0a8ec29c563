/* SPDX-License-Identifier: Apache-2.0 */
/* Implements tls.h. */
#include "serve/tls.h"

#include <string.h>

#include <openssl/err.h>

static int no_password(char *buf, int size, int writing, void *arg) {
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

/* The first of OpenSSL's errors is the cause, those after it say where it went by. */
static enum st fail(struct err *err, const char *file, const char *what) {
    unsigned long code = ERR_get_error();
    const char *reason =
        ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    ERR_clear_error();
    return err_set(err, ST_INVALID, "%s: %s: %s", file, what,
                   reason ? reason : "the reason is not known");
}

enum st tls_new(SSL_CTX **out, const char *cert_file, const char *key_file, struct err *err) {
    SSL_CTX *c = SSL_CTX_new(TLS_server_method());
    enum st st = ST_OK;
    if (!c) return err_set(err, ST_NO_MEMORY, "serve: TLS: out of memory");
    SSL_CTX_set_default_passwd_cb(c, no_password);
    SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE);
    ERR_clear_error();
    if (SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) != 1)
        st = fail(err, "serve", "TLS 1.2");
    else if (SSL_CTX_use_certificate_chain_file(c, cert_file) != 1)
        st = fail(err, cert_file, "cannot read a certificate (PEM)");
    else if (SSL_CTX_use_PrivateKey_file(c, key_file, SSL_FILETYPE_PEM) != 1)
        st = fail(err, key_file, "cannot use the private key (PEM, without a password)");
    else if (SSL_CTX_check_private_key(c) != 1)
        st = fail(err, key_file, "the key does not belong to the certificate");
    if (st) {
        SSL_CTX_free(c);
        return st;
    }
    *out = c;
    return ST_OK;
}
