# SPDX-License-Identifier: Apache-2.0
"""A cluster whose every part is a process of ours, so that single ones can be killed, stopped and started again; and HTTP
clients whose answers can be compared. For break.py and tests/e2e/test_break.py."""
import http.client, json, os, re, shutil, signal, socket, subprocess, tempfile, threading, time, urllib.request

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))
MODEL = os.environ.get("SUPERNODE_TEST_MODEL", os.path.join(ROOT, "models/tiny"))
MAX_LEN = "4096"


def wait_for(what, seconds, why):
    """Until it is so; `why` says what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{why() if callable(why) else why}: not in {seconds} s")
        time.sleep(0.02)
    return found


# --- processes -------------------------------------------------------------------------------------------------


class Part:
    """One process, started again under its name. Its log has the output of all its lives."""

    def __init__(self, binary, directory, name, args):
        self.binary, self.name, self.args = binary, name, args
        self.log_path = os.path.join(directory, f"{name}.log")
        self.process, self.begun_at, self.ours = None, 0, False

    def start(self, args=None):
        env = dict(os.environ)
        env["ASAN_OPTIONS"] = "detect_leaks=1:quarantine_size_mb=8:" + env.get("ASAN_OPTIONS", "")
        # TSan does not know memfd_create: the descriptor's number was another thread's before
        with open(os.path.join(os.path.dirname(self.log_path), "tsan"), "w") as f:
            f.write("race:send_with_memory\nrace:shm_memfd\n")
        env["TSAN_OPTIONS"] = f"halt_on_error=0:suppressions={f.name}:" + env.get("TSAN_OPTIONS", "")
        self.args = args or self.args
        with open(self.log_path, "a") as log:
            self.begun_at = log.tell()
            self.process = subprocess.Popen([self.binary, *self.args], stdout=log, stderr=log, env=env)
        self.ours = False

    def said(self, pattern):
        """In this life."""
        with open(self.log_path, errors="replace") as log:
            log.seek(self.begun_at)
            return re.search(pattern, log.read())

    def kill(self, sig=signal.SIGKILL):
        self.ours = True
        self.process.send_signal(sig)
        return self.process.wait(60)

    def signal(self, sig):
        self.process.send_signal(sig)

    def died(self):
        """By itself."""
        return self.process.poll() is not None and not self.ours

    def metrics(self):
        port = wait_for(lambda: self.said(r"http://127\.0\.0\.1:(\d+)/metrics"), 60, f"{self.name}: its metrics port").group(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as r:
            return {m.group(1): float(m.group(2)) for m in re.finditer(r"^supernode_(\w+)(?:\{[^}]*\})? (\S+)$", r.read().decode(), re.M)}


class Cluster:
    """Router, workers p0.. and d0.., pool servers m0.. of which the first has an SSD."""

    def __init__(self, prefill=2, decode=2, pool=2, no_worker_s=30, timeout_ms=500, dram="3M", ssd_bytes="6M", kv="12M", binary=BIN, model=MODEL):
        self.binary, self.model, self.kv, self.dram, self.ssd_bytes, self.timeout_ms = binary, model, kv, dram, ssd_bytes, timeout_ms
        self.top = tempfile.mkdtemp(prefix="supernode-break-")
        self.dir = os.path.join(self.top, "cluster")
        os.mkdir(self.dir, 0o700)
        self.port = None
        self.router = Part(binary, self.top, "router", ["router", model, *self.common(), "--port", "0", "--max-model-len", MAX_LEN, "--served-model-name",
                                                        "break", "--drain-timeout", "20", "--no-worker-timeout", str(no_worker_s)])
        self.members = {}
        for i in range(pool):
            self.add(f"m{i}", self.pool_args(f"m{i}"))
        for role, letter, n in (("prefill", "p", prefill), ("decode", "d", decode)):
            for i in range(n):
                self.add(f"{letter}{i}", self.worker_args(f"{letter}{i}", role))
        try:
            self.start_router()
            for part in self.members.values():
                part.start()
            self.wait_ready()
        except BaseException:
            self.end()
            raise

    def common(self):
        return ["--cluster", self.dir, "--peer-timeout-ms", str(self.timeout_ms)]

    def worker_args(self, name, role):
        return [role, self.model, *self.common(), "--name", name, "--threads", "1", "--kv-cache-memory", self.kv, "--max-model-len", MAX_LEN,
                "--metrics-port", "0"]

    def pool_args(self, name, dram=None):
        ssd = ["--ssd", os.path.join(self.top, "ssd"), "--ssd-bytes", self.ssd_bytes] if name == "m0" else []
        return ["pool", *self.common(), "--name", name, "--dram", dram or self.dram, *ssd, "--metrics-port", "0"]

    def add(self, name, args):
        self.members[name] = Part(self.binary, self.top, name, args)

    def start_router(self):
        """Always at the same port."""
        if self.port:
            self.router.args[self.router.args.index("--port") + 1] = str(self.port)
        self.router.start()
        self.port = int(wait_for(lambda: self.router.said(r"serving\s+http://127\.0\.0\.1:(\d+)"), 60, "the router serves").group(1))

    def view(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/cluster", timeout=30) as r:
            return json.loads(r.read())

    def ready(self, role=None):
        """Names that the router calls ready, in the life that we know of."""
        return {m["name"] for m in self.view()["members"] if m["state"] == "ready" and (role is None or m["role"] == role)
                and m["pid"] == self.members[m["name"]].process.pid}

    def wait_ready(self, names=None, seconds=60):
        names = set(names or self.members)
        wait_for(lambda: names <= self.ready(), seconds, lambda: f"{sorted(names - self.ready())} ready again")

    def ctl(self, *args):
        p = subprocess.run([self.binary, "ctl", *args, "--cluster", self.dir], capture_output=True, text=True, timeout=60)
        if p.returncode != 0:
            raise RuntimeError(f"ctl {' '.join(args)}: {p.stderr}")

    def held(self):
        """What is not given back, in words; empty: nothing."""
        view = self.view()
        held = [f"the router has {view[k]} {k}" for k in ("queued", "prefilling", "decoding") if view[k]]
        for m in view["members"]:
            keys = ("lent", "reserved", "running", "waiting", "pages_used") if m["role"] != "pool" else ()
            held += [f"{m['name']} {k} {m['load'][k]}" for k in keys if m["load"][k]]
            held += [f"{m['name']} flights {m['flights']}"] if m["flights"] else []
        for name, part in self.members.items():
            if name[0] != "m" and not held and (leaked := part.metrics().get("handover_pages_leaked")):
                held.append(f"{name} pages_leaked {leaked}")
        return held

    def busy(self, role):
        """The member of a role that has most requests; None: there are none."""
        busiest = max((m for m in self.view()["members"] if m["role"] == role), key=lambda m: m["flights"], default=None)
        return busiest["name"] if busiest and busiest["flights"] else None

    def wait_quiet(self, seconds=25):
        """Leases last 10 s."""
        wait_for(lambda: not self.held(), seconds, lambda: f"all is given back ({', '.join(self.held())})")

    def logs(self):
        for name in ["router", *self.members]:
            with open(os.path.join(self.top, f"{name}.log"), errors="replace") as f:
                yield name, f.read()

    def accused(self):
        """What sanitizers said."""
        return [f"{name}: {m.group(0)}" for name, text in self.logs() for m in
                re.finditer(r".*(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:).*(\n.*){0,12}", text)]

    def dead(self):
        """Parts that ended by themselves."""
        return [f"{p.name} ended by itself with {p.process.returncode}" for p in (self.router, *self.members.values()) if p.died()]

    def stop(self):
        """All parts must end well. The list of what did not."""
        bad = self.dead()
        for p in (self.router, *self.members.values()):
            if p.process.poll() is None:
                try:
                    code = p.kill(signal.SIGTERM)
                except subprocess.TimeoutExpired:
                    p.kill()
                    code = "nothing in 60 s"
                if code != 0:
                    bad.append(f"{p.name}: SIGTERM: ended with {code}")
        return bad + self.accused()

    def end(self):
        """At once, whatever state it is in."""
        for p in (self.router, *self.members.values()):
            if p.process and p.process.poll() is None:
                p.kill()

    def remove(self):
        shutil.rmtree(self.top, ignore_errors=True)


class Serve(Part):
    """`supernode serve`: whose answers count."""

    def __init__(self, binary=BIN, model=MODEL, threads=1):
        self.top = tempfile.mkdtemp(prefix="supernode-break-")
        super().__init__(binary, self.top, "serve", ["serve", model, "--port", "0", "--served-model-name", "break", "--max-model-len", MAX_LEN,
                                                     "--kv-cache-memory", "32M", "--threads", str(threads)])
        self.start()
        self.port = int(wait_for(lambda: self.died() or self.said(r"serving\s+http://127\.0\.0\.1:(\d+)"), 60, "serve serves").group(1))

    def stop(self):
        code = self.kill(signal.SIGTERM)
        shutil.rmtree(self.top, ignore_errors=True)
        return code


# --- answers ---------------------------------------------------------------------------------------------------


class Choice:
    def __init__(self):
        self.text, self.finish, self.logprobs, self.prompt_logprobs = "", None, {}, None

    def add(self, c):
        """A choice of an answer, or a part of it."""
        self.text += c.get("text") or (c.get("message") or c.get("delta") or {}).get("content") or ""
        for key, values in (c.get("logprobs") or {}).items():
            if values:
                self.logprobs.setdefault(key, []).extend(values)
        self.finish = (c["finish_reason"], c.get("stop_reason")) if c.get("finish_reason") else self.finish
        self.prompt_logprobs = c.get("prompt_logprobs", self.prompt_logprobs)


class Answer:
    """What came for a request: status, and either an error's object or what a model said."""

    def __init__(self):
        self.status, self.error, self.usage, self.seed, self.choices, self.ended, self.cached = None, None, None, None, {}, False, None
        self.prompt_logprobs, self.n_events = None, 0

    def add(self, body):
        if "error" in body:
            self.error = body["error"]
        self.seed = body.get("seed", self.seed)
        self.prompt_logprobs = body.get("prompt_logprobs", self.prompt_logprobs)
        for c in body.get("choices", []):
            self.choices.setdefault(c["index"], Choice()).add(c)
        if u := body.get("usage"):
            self.usage = (u["prompt_tokens"], u["completion_tokens"], u["total_tokens"])
            self.cached = u["prompt_tokens_details"]["cached_tokens"]

    def said(self):
        """All that must be equal, as text: cached_tokens depends on what was asked before."""
        return json.dumps([self.seed, self.usage, self.prompt_logprobs,
                           [(i, c.text, c.finish, c.logprobs, c.prompt_logprobs) for i, c in sorted(self.choices.items())]])

    def texts(self):
        return {i: c.text for i, c in self.choices.items()}


def difference(found, expected):
    at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
    return f"they differ at {at}: ...{found[max(0, at - 60):at + 60]!r}... and ...{expected[max(0, at - 60):at + 60]!r}..."


def read_events(r, answer, leave_after, on_event):
    for line in r:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            answer.ended = True
            continue
        answer.add(json.loads(line[6:]))
        answer.n_events += 1
        if on_event:
            on_event(answer)
        if leave_after is not None and answer.n_events > leave_after:
            return


def ask(port, body, stream=False, leave_after=None, on_event=None, timeout=60):
    """leave_after: hangs up after so many events of the stream."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = Answer()
    if stream:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        r = c.getresponse()
        answer.status = r.status
        if stream and r.status == 200:
            read_events(r, answer, leave_after, on_event)
        else:
            answer.add(json.loads(r.read()))
            answer.ended = True
    finally:
        c.close()
    return answer


class Stream(threading.Thread):
    """A stream that is read beside what the test does."""

    def __init__(self, port, body):
        super().__init__(daemon=True)
        self.port, self.body, self.answer, self.failed, self.n_events, self.latest = port, body, None, None, 0, None
        self.start()

    def run(self):
        try:
            self.answer = ask(self.port, self.body, stream=True, on_event=self.count)
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.failed = e

    def count(self, answer):
        self.n_events, self.latest = answer.n_events, answer

    def wait_events(self, n):
        wait_for(lambda: self.n_events >= n or not self.is_alive(), 60, f"{n} events of a stream")

    def result(self, seconds=90):
        self.join(seconds)
        if self.failed:
            raise self.failed
        assert self.answer, "no end of the stream"
        return self.answer


def storm(port, bodies, seconds):
    """Clients that hang up all at once, half of them rudely."""
    sockets = []
    for body in bodies:
        data = json.dumps({**body, "stream": True}).encode()
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        s = socket.create_connection(("127.0.0.1", port), 30)
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
        sockets.append(s)
    time.sleep(seconds)
    for i, s in enumerate(sockets):
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        s.close()
