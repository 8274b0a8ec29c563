#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Soak: a server under clients that behave, leave, dawdle and lie, all at once, for a bounded time.

What must hold: an answer that comes is the one the same request got when it was alone; every request gets an answer that its
kind allows (malformed ones a 4xx, the rest 200, or 429 or 503 when the house is full); afterwards nothing runs or waits and no KV
page is held; the process is no larger at the end than at a third of the time; no sanitizer speaks; it ends with code 0.

    tests/soak/soak.py [--bin build/supernode] [--seconds 600] [--clients 24] [--seed N]

Prints one line of figures, or what failed (with the seed) and exits 1. Reads and writes are raw sockets, since the point is what
no HTTP library would do."""
import argparse, asyncio, collections, json, os, random, re, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FULL = (429, 503)
NOTES = collections.Counter()
FAILURES = []


def fail(what):
    FAILURES.append(what)
    NOTES["failed"] += 1


# --- the server ------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, binary, model, flags):
        self.errors = tempfile.TemporaryFile("w+")
        env = dict(os.environ)
        env["ASAN_OPTIONS"] = "detect_leaks=1:quarantine_size_mb=8:" + env.get("ASAN_OPTIONS", "")
        env["TSAN_OPTIONS"] = "halt_on_error=0:" + env.get("TSAN_OPTIONS", "")
        self.process = subprocess.Popen([binary, "serve", model, "--port", "0", "--served-model-name", "soak", *flags], stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True, env=env)
        for line in self.process.stdout:
            if m := re.search(r"serving\s+http://127\.0\.0\.1:(\d+)", line):
                self.port = int(m.group(1))
                break
        else:
            sys.exit("soak: the server does not start: " + self.log())

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def rss_mb(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024


# --- HTTP by hand ----------------------------------------------------------------------------------------------


def head(method, path, length=None, more=""):
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: soak\r\n{more}{size}\r\n".encode()


def post(path, body, more=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, len(data), more) + data


async def read_answer(reader, pause=0):
    """(status, body bytes); raises IncompleteReadError or ConnectionError when it breaks off. pause: seconds before each chunk."""
    top = await reader.readuntil(b"\r\n\r\n")
    status = int(top.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in top.lower():
        body = b""
        while True:
            if pause:
                await asyncio.sleep(pause)
            size = int(await reader.readline(), 16)
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            if size == 0:
                return status, body
    m = re.search(rb"content-length:\s*(\d+)", top, re.I)
    return status, await reader.readexactly(int(m.group(1)) if m else 0)


class Connection:
    def __init__(self, port, limit=1 << 16):
        self.port, self.limit = port, limit

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=self.limit)
        return self.reader, self.writer

    async def __aexit__(self, *args):
        self.writer.transport.abort()  # a reset where something is unread


# --- requests and their answers --------------------------------------------------------------------------------


def make_pool(rng, n):
    """Requests with a seed: each has one answer. Prompts share prefixes, so that the cache is used."""
    pool = []
    shared = [rng.randrange(3, 4000) for _ in range(600)]
    for i in range(n):
        sampling = {"seed": i, "temperature": rng.choice([0, 0.7, 1, 1.5]), "max_tokens": rng.choice([1, 2, 8, 24, 60])}
        if rng.random() < 0.5:
            sampling["ignore_eos"] = True
        if rng.random() < 0.2:
            sampling["top_p"] = 0.9
        if rng.random() < 0.15:
            sampling["n"] = 2
        if rng.random() < 0.3:
            text = rng.choice(["Tell me a story about a fox.", "Who lives there?", "é ü 漢字 🦊", "A " * rng.randrange(1, 200)])
            messages = [{"role": "user", "content": text}]
            if rng.random() < 0.4:
                messages = [{"role": "user", "content": "Once"}, {"role": "assistant", "content": "upon a time."}] + messages
            pool.append(("/v1/chat/completions", {"messages": messages, **sampling}))
        else:
            own = [rng.randrange(3, 4000) for _ in range(rng.randrange(1, 80))]
            prompt = rng.choice([own, shared[: rng.randrange(1, 600)] + own, "Once upon a time"])
            if rng.random() < 0.2:
                sampling["logprobs"] = 2
            pool.append(("/v1/completions", {"prompt": prompt, **sampling}))
    return pool


def texts_of(answer, chat):
    return [c["message"]["content"] if chat else c["text"] for c in sorted(answer["choices"], key=lambda c: c["index"])]


def texts_of_stream(body, n):
    events = [e for e in body.decode().split("\n\n") if e]
    if not events or events[-1] != "data: [DONE]":
        return None
    texts = [""] * n
    for e in events[:-1]:
        chunk = json.loads(e[6:])
        if "error" in chunk:
            return None
        for c in chunk["choices"]:
            texts[c["index"]] += (c.get("text") or "") + (c.get("delta", {}).get("content") or "")
    return texts


# --- clients ---------------------------------------------------------------------------------------------------


class Soak:
    def __init__(self, port, rng):
        self.port, self.rng = port, rng
        self.pool, self.expected = make_pool(rng, 40), []

    async def learn(self):
        """Each request alone: what every later answer must be."""
        for path, body in self.pool:
            async with Connection(self.port) as (reader, writer):
                writer.write(post(path, body))
                status, data = await read_answer(reader)
            if status != 200:
                raise SystemExit(f"soak: {path} {body}: {status} {data[:300]!r}")
            self.expected.append(texts_of(json.loads(data), "chat" in path))

    def pick(self):
        i = self.rng.randrange(len(self.pool))
        return i, *self.pool[i]

    def judge(self, i, texts, how):
        if texts == self.expected[i]:
            NOTES[how] += 1
        else:
            fail(f"{how}: request {i} {self.pool[i]}: found {texts!r}, expected {self.expected[i]!r}")

    async def whole(self):
        i, path, body = self.pick()
        async with Connection(self.port) as (reader, writer):
            for _ in range(self.rng.randrange(1, 4)):  # the connection is kept
                writer.write(post(path, body))
                status, data = await read_answer(reader)
                if status == 200:
                    self.judge(i, texts_of(json.loads(data), "chat" in path), "whole")
                elif status in FULL:
                    NOTES["full"] += 1
                    return
                else:
                    fail(f"whole: {status} {data[:200]!r}")

    async def stream(self, pause=0, name="streamed"):
        i, path, body = self.pick()
        async with Connection(self.port, 512 if pause else 1 << 16) as (reader, writer):
            writer.write(post(path, {**body, "stream": True, "stream_options": {"include_usage": True}}))
            status, data = await read_answer(reader, pause)
        if status == 200:
            self.judge(i, texts_of_stream(data, body.get("n", 1)), name)
        elif status in FULL:
            NOTES["full"] += 1
        else:
            fail(f"stream: {status} {data[:200]!r}")

    async def slow_reader(self):
        await self.stream(self.rng.choice([0.005, 0.02]), "slow")

    async def slow_sender(self):
        i, path, body = self.pick()
        data = post(path, body)
        async with Connection(self.port) as (reader, writer):
            at = 0
            while at < len(data):
                n = self.rng.randrange(1, max(2, len(data) // 4))
                writer.write(data[at:at + n])
                at += n
                await asyncio.sleep(self.rng.random() * 0.02)
            status, answer = await read_answer(reader)
        if status == 200:
            self.judge(i, texts_of(json.loads(answer), "chat" in path), "slow sent")
        elif status in FULL:
            NOTES["full"] += 1
        else:
            fail(f"slow sender: {status} {answer[:200]!r}")

    async def hang_up(self):
        """Leaves while sending, waiting, in the prompt or in the answer."""
        _, path, body = self.pick()
        body = {**body, "stream": self.rng.random() < 0.7, "max_tokens": 400, "ignore_eos": True}
        if self.rng.random() < 0.3:
            body = {"prompt": [self.rng.randrange(3, 4000) for _ in range(self.rng.randrange(100, 3000))], "stream": True, "max_tokens": 50}
            path = "/v1/completions"
        data = post(path, body)
        async with Connection(self.port) as (reader, writer):
            if self.rng.random() < 0.2:
                writer.write(data[: self.rng.randrange(len(data))])
                await asyncio.sleep(self.rng.random() * 0.02)
            else:
                writer.write(data)
                await asyncio.sleep(self.rng.expovariate(30))
                if self.rng.random() < 0.5:
                    await asyncio.wait_for(reader.read(self.rng.randrange(1, 4000)), 60)
        NOTES["hung up"] += 1

    async def malformed(self):
        _, path, body = self.pick()
        text = json.dumps(body).encode()
        kind = self.rng.randrange(8)
        if kind == 0:
            data = post(path, text[: self.rng.randrange(len(text))])
        elif kind == 1:
            data = post(path, os.urandom(self.rng.randrange(1, 300)))
        elif kind == 2:
            data = post(path, {**body, "temperature": self.rng.choice(["hot", -3, 1e9, None, []]), "max_tokens": -1})
        elif kind == 3:
            data = post(path, {"prompt": [2**40], "messages": "no"})
        elif kind == 4:
            data = post(path, b"[" * self.rng.randrange(10, 20000))
        elif kind == 5:
            data = b"GET / HTTP/9.9.9\r\n\r\n"
        elif kind == 6:
            data = post("/v1/nowhere", body)
        else:
            data = head("POST", path, "5x") + b"hello"
        async with Connection(self.port) as (reader, writer):
            writer.write(data)
            status, answer = await read_answer(reader)
        if not 400 <= status < 500 and status not in FULL or b'"error"' not in answer:
            fail(f"malformed, kind {kind}: {status} {answer[:200]!r} for {data[:200]!r}")
        NOTES["malformed"] += 1

    async def look(self):
        path = self.rng.choice(["/health", "/metrics", "/v1/models", "/version", "/", "/live"])
        begun = time.monotonic()
        async with Connection(self.port) as (reader, writer):
            writer.write(head("GET", path))
            status, _ = await read_answer(reader)
        if status != 200:
            fail(f"{path}: {status}")
        NOTES["looked"] += 1
        NOTES["slowest look ms"] = max(NOTES["slowest look ms"], int((time.monotonic() - begun) * 1e3))

    async def client(self, end):
        kinds = [(self.whole, 4), (self.stream, 4), (self.hang_up, 4), (self.malformed, 3), (self.slow_reader, 1), (self.slow_sender, 1), (self.look, 2)]
        names, weights = zip(*kinds)
        while time.monotonic() < end and len(FAILURES) < 10:
            kind, full = self.rng.choices(names, weights)[0], NOTES["full"]
            try:
                await asyncio.wait_for(kind(), 120)
                if NOTES["full"] > full:
                    await asyncio.sleep(self.rng.random() * 0.1)
            except asyncio.TimeoutError:
                fail(f"{kind.__name__}: no answer in 120 s")
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as e:
                if kind != self.hang_up:
                    fail(f"{kind.__name__}: {e!r}")


# --- the whole -------------------------------------------------------------------------------------------------


async def metrics(port):
    async with Connection(port, 1 << 20) as (reader, writer):
        writer.write(head("GET", "/metrics"))
        status, body = await read_answer(reader)
    if status != 200:
        return {}
    return {m.group(1): float(m.group(2)) for m in re.finditer(r"^supernode_(\w+)(?:\{[^}]*\})? (\S+)$", body.decode(), re.M)}


QUIET = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "http_requests_open")


async def settle(port):
    """Soon after the last client left nothing may be held."""
    found = {}
    for _ in range(100):
        found = await metrics(port)
        if found and all(found.get(name, -1) == 0 for name in QUIET):
            return found
        await asyncio.sleep(0.1)
    fail("still held 10 s after the last client left: " + ", ".join(f"{n} {found.get(n)}" for n in QUIET))
    return found


async def run(server, args):
    soak = Soak(server.port, random.Random(args.seed))
    await soak.learn()
    begun = time.monotonic()
    clients = [asyncio.create_task(soak.client(begun + args.seconds)) for _ in range(args.clients)]
    await asyncio.sleep(args.seconds / 3)
    third = server.rss_mb()
    await asyncio.gather(*clients)
    last = await settle(server.port)
    return third, server.rss_mb(), last


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--bin", default=os.path.join(ROOT, "build/supernode"))
    p.add_argument("--model", default=os.path.join(ROOT, "models/tiny"))
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--clients", type=int, default=24)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = p.parse_args()
    # little KV and few sequences: requests wait, and are preempted
    server = Server(args.bin, args.model, ["--max-model-len", "4096", "--kv-cache-memory", "5M", "--max-num-seqs", "12", "--max-concurrent-requests", "20"])
    try:
        third, end, last = asyncio.run(run(server, args))
    except (OSError, asyncio.IncompleteReadError) as e:
        fail(f"the server cannot be reached: {e!r}")
        third, end, last = 0, 0, {}
    died = server.process.poll()
    if died is not None:
        FAILURES.insert(0, f"the server died with code {died}")
    server.process.terminate()
    try:
        code = server.process.wait(60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        code = "none in 60 s"
    log = server.log()
    if code != 0 and died is None:
        fail(f"exit code {code} after SIGTERM")
    if re.search(r"Sanitizer|runtime error|Assertion", log):
        fail("the sanitizer speaks")
    sanitized = "san-" in args.bin  # its own memory grows too
    if end > third * (1.5 if sanitized else 1.1) + (100 if sanitized else 8):
        fail(f"memory grows: {third:.0f} MB at a third, {end:.0f} MB at the end")
    print(f"soak: {args.seconds:.0f} s, {args.clients} clients, seed {args.seed}: " + ", ".join(f"{n} {k}" for k, n in sorted(NOTES.items())) +
          f"; preemptions {last.get('num_preemptions_total', 0):.0f}, RSS {third:.0f} MB at a third, {end:.0f} MB at the end")
    for f in FAILURES[:10]:
        print("FAILED", f[:1500])
    if FAILURES and log:
        print("server's log:\n" + log[-6000:])
    sys.exit(bool(FAILURES))


main()
