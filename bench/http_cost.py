#!/usr/bin/env python3
"""What streaming costs the HTTP thread: bench/http_cost.py BINARY [STREAMS]. Serves the default model, lets many streams run,
and divides the tokens by the processor time of the thread that runs the event loop. One JSON line."""
import json, os, re, socket, subprocess, sys, threading, time

binary, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 32
tokens = 512
p = subprocess.Popen([binary, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
for line in p.stdout:
    if m := re.search(r"http://127.0.0.1:(\d+)", line):
        port = int(m[1])
        break
threading.Thread(target=p.stdout.read, daemon=True).start()


def cpu():
    fields = open(f"/proc/{p.pid}/task/{p.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(i):
    body = json.dumps({"prompt": [10 + i, 20], "max_tokens": tokens, "ignore_eos": True, "stream": True}).encode()
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    while s.recv(1 << 20):
        pass


def run():
    before, begun = cpu(), time.time()
    clients = [threading.Thread(target=ask, args=(i,)) for i in range(n)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    return cpu() - before, time.time() - begun


run()
http, wall = run()
p.terminate()
p.wait()
print(json.dumps({"streams": n, "tokens": n * tokens, "wall_s": wall, "http_cpu_s": http, "us_per_token": 1e6 * http / n / tokens,
                  "tokens_per_http_cpu_s": n * tokens / http}))
