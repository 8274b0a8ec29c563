/* SPDX-License-Identifier: Apache-2.0 */
/* The page at /: a chat for a browser, served from inside the binary. Its three files (src/serve/page)
 * are embedded as they stand; they load nothing from elsewhere, and their security policy allows
 * nothing else. */
#ifndef SUPERNODE_SERVE_PAGE_H
#define SUPERNODE_SERVE_PAGE_H

#include <event2/http.h>

/* The file path of the page, "/", "/page.css" or "/page.js", is sent: GET or HEAD. Returns
 * the status: 200, or 304 if the client has it. */
int page_send(struct evhttp_request *req);

#endif
