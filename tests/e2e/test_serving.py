"""Running a server: metrics, health, limits, API keys, TLS, CORS, logs, draining, the config file. Real sockets, real signals."""
import json, os, re, signal, socket, subprocess, threading, time

import pytest

from test_serve import BIN, HELLO, HOST, LONG, MODEL, ROOT, SANITIZED, Server, health_ms, idle, read_all, read_until, request_bytes, room


@pytest.fixture
def serve():
    """serve(*flags) starts a server, which must end well."""
    running = []

    def start(*flags, **kw):
        running.append(Server(*flags, **kw))
        return running[-1]

    yield start
    for s in running:
        if s.process.poll() is None:
            s.stop()
        assert s.process.returncode == 0, s.log()


# --- limits ----------------------------------------------------------------------------------------------------


def test_too_many_requests_get_503(serve):
    s = serve("--max-concurrent-requests", "8")
    body = {"prompt": [5], "max_tokens": room(s) - 1, **LONG}
    sockets = [s.socket(request_bytes("/v1/completions", {**body, "stream": True})) for _ in range(8)]
    time.sleep(0.5)
    status, headers, r = s.post("/v1/completions", body)
    assert status == 503 and headers["Retry-After"] == "1" and r["error"]["code"] == "overloaded" and r["error"]["type"] == "server_error"
    assert health_ms(s) < 1000
    for each in sockets:
        each.close()
    deadline = time.time() + 60
    while s.complete(prompt=[5], max_tokens=1)[0] == 503 and time.time() < deadline:
        time.sleep(0.1)
    idle(s)
