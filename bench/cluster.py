#!/usr/bin/env python3
"""A cluster of one prefill and one decode worker, one core each, beside the all-in-one with two threads, on the load whose
prefill takes half of the all-in-one's computing (the output length is searched); and a 4,096-token prompt found in the pool
after all workers were restarted. bench/cluster.py BINARY MODEL. One JSON line."""
import http.client, json, os, random, re, signal, statistics, subprocess, sys, tempfile, threading, time

binary, model = sys.argv[1:3]
CLIENTS, PROMPT, WINDOW_S, WARM_S, ROUNDS = 16, 512, 40, 15, 2
rng = random.Random(5)
log = lambda text: print(text, file=sys.stderr, flush=True)


def ids(n):
    return [rng.randrange(10, 4000) for _ in range(n)]


class Process:
    """A command of ours; it is up when its output says what it waits for."""

    def __init__(self, *args, core=None, until=r"http://127.0.0.1:(\d+)"):
        pin = ["taskset", "-c", str(core)] if core is not None else []
        self.p = subprocess.Popen([*pin, binary, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.found = None
        for row in self.p.stdout:
            if m := re.search(until, row):
                self.found = m
                break
        assert self.found, f"{args[0]} did not start"
        threading.Thread(target=self.p.stdout.read, daemon=True).start()

    def stop(self, how=signal.SIGTERM):
        self.p.send_signal(how)
        self.p.wait()


def ask(port, prompt, n):
    """Seconds to the first token."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": prompt, "max_tokens": n, "ignore_eos": True, "stream": True, "temperature": 0}
    begun, first = time.monotonic(), None
    c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    assert r.status == 200, r.read()
    for line in r:
        if line.startswith(b"data: {"):
            assert b'"error"' not in line, line
            first = first or time.monotonic() - begun
    c.close()
    return first


def metric(port, name, label=""):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    c.close()
    return sum(float(m[1]) for m in re.finditer(rf"^supernode_{name}{{[^}}]*{label}[^}}]*}} (\S+)$", text, re.M))


class Load:
    """Clients that ask again and again, until the end."""

    def __init__(self, port, n_out):
        self.over = False
        self.threads = [threading.Thread(target=self.run, args=(port, n_out)) for _ in range(CLIENTS)]
        for t in self.threads:
            t.start()

    def run(self, port, n_out):
        while not self.over:
            ask(port, ids(PROMPT), n_out)

    def stop(self):
        self.over = True
        for t in self.threads:
            t.join()


def measure(port, n_out):
    """Generated tokens a second in the middle of a long load, and the share of prefill in what was computed."""
    load = Load(port, n_out)
    time.sleep(WARM_S)
    names = [("generation_tokens_total", ""), ("engine_busy_seconds_total", "prefill"), ("engine_busy_seconds_total", "decode")]
    before, begun = [metric(port, *n) for n in names], time.monotonic()
    time.sleep(WINDOW_S)
    after, end = [metric(port, *n) for n in names], time.monotonic()
    load.stop()
    tokens, prefill, decode = (b - a for a, b in zip(before, after))
    return tokens / (end - begun), prefill / (prefill + decode) if prefill + decode else 0


def serve():
    p = Process("serve", model, "--port", 0, "--threads", 2)
    return p, int(p.found[1])


class Cluster:
    def __init__(self, pool):
        self.dir = tempfile.mkdtemp(prefix="supernode-bench-")
        self.router = Process("router", model, "--port", 0, "--cluster", self.dir)
        self.port = int(self.router.found[1])
        self.pool = Process("pool", "--cluster", self.dir, "--name", "m0", "--dram", "2G", until="joined") if pool else None
        self.start_workers()

    def start_workers(self):
        flags = ["--cluster", self.dir, "--threads", 1, "--kv-cache-memory", "1G"]
        self.workers = [Process(role, model, *flags, "--name", name, core=core, until="joined")
                        for role, name, core in (("prefill", "p0", 0), ("decode", "d0", 1))]

    def stop_workers(self):
        for w in self.workers:
            w.stop(signal.SIGKILL)

    def stop(self):
        self.stop_workers()
        if self.pool:
            self.pool.stop(signal.SIGKILL)
        self.router.stop()


def search():
    """The output length at which prefill takes half of the all-in-one's computing."""
    p, port = serve()
    ask(port, ids(64), 4)  # the weights are read once
    n, seen = 64, {}
    for _ in range(4):
        seen[n] = measure(port, n)[1]
        log(f"  {n} tokens out: prefill takes {seen[n]:.2f}")
        if abs(seen[n] - 0.5) < 0.03:
            break
        n = max(4, round(n * seen[n] / (1 - seen[n])))
    p.stop()
    n = min(seen, key=lambda k: abs(seen[k] - 0.5))
    return n, seen[n]


def alone(n_out):
    p, port = serve()
    ask(port, ids(64), 4)
    rate = measure(port, n_out)[0]
    p.stop()
    return rate


def together(n_out):
    c = Cluster(pool=False)
    ask(c.port, ids(64), 4)
    rate = measure(c.port, n_out)[0]
    c.stop()
    return rate


def restarted():
    """TTFT of a prompt computed, and of the same prompt after all workers were killed and started anew."""
    c = Cluster(pool=True)
    ask(c.port, ids(64), 4)
    prompt = ids(4096)
    first = ask(c.port, prompt, 1)
    time.sleep(3)  # it is stored in the background
    c.stop_workers()
    c.start_workers()
    ask(c.port, ids(64), 4)
    again = ask(c.port, prompt, 1)
    c.stop()
    return first, again


n_out, share = search()
rates = []
for _ in range(ROUNDS):
    rates.append((alone(n_out), together(n_out)))
    log(f"  all-in-one {rates[-1][0]:.1f}, cluster {rates[-1][1]:.1f} tokens/s")
first, again = restarted()
print(json.dumps({"output_len": n_out, "prefill_share": share, "all_in_one": statistics.median(a for a, _ in rates),
                  "cluster": statistics.median(b for _, b in rates), "ratio": statistics.median(b / a for a, b in rates),
                  "ttft_computed_s": first, "ttft_pool_s": again, "ttft_ratio": first / again}))
