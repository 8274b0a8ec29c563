#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Proof by breaking: a cluster of real processes under real clients, while its parts are killed, stopped, drained, starved of
disk and memory, switched and started again.

What must hold: every answer is, bit for bit, the one that `supernode serve` gives undisturbed (text, finish_reason, logprobs,
usage, seed), unless no worker of a role was there for longer than --no-worker-timeout: then it is a 503, or an error event in a
stream. Afterwards no request is left, and no page is held. No part ends by itself, and no sanitizer speaks.

    tests/soak/break.py [--bin build/supernode] [--requests 300] [--seed N] [--clients 8]

The faults and their order follow from the seed. Prints one line that counts it all, or what failed, and exits 1; the logs of all
parts are then kept."""
import argparse, collections, concurrent.futures, contextlib, http.client, json, os, random, resource, signal, sys, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import parts

NO_WORKER_S = 2
KINDS = ("kill prefill", "kill decode", "kill pool", "restart at once", "stop prefill", "stop decode", "stop pool", "drain worker", "drain pool",
         "switch roles", "disk full", "pool memory", "abort storm", "short outage", "long outage")


# --- requests --------------------------------------------------------------------------------------------------


def make_request(rng, shared):
    body = {"seed": rng.randrange(1 << 31), "max_tokens": rng.choice([1, 2, 16, 60, 200, 200, 500]), "temperature": rng.choice([0, 0.4, 0.8, 1])}
    chat = rng.random() < 0.2
    maybe = lambda p, **fields: body.update(fields) if rng.random() < p else None
    maybe(0.6, ignore_eos=True)
    maybe(0.35, n=rng.choice([2, 3]))
    maybe(0.15, top_p=0.9)
    maybe(0.1, min_p=0.05)
    maybe(0.2, repetition_penalty=1.2)
    maybe(0.2, presence_penalty=0.6, frequency_penalty=0.4)
    maybe(0.25, stop=rng.sample([" the", " and", "\n", ".", "fox"], rng.randrange(1, 3)))
    if rng.random() < 0.3:
        body.update({"logprobs": True, "top_logprobs": rng.choice([0, 2])} if chat else {"logprobs": rng.choice([0, 2])})
    maybe(0.1, prompt_logprobs=1)
    if chat:
        body["messages"] = [{"role": "user", "content": rng.choice(["Tell me a story about a fox.", "Who lives there?", "é ü 漢字 🦊", "A " * rng.randrange(1, 900)])}]
    else:
        own = [rng.randrange(10, 4000) for _ in range(rng.choice([1, 3, 40, 150]))]
        long = [rng.randrange(10, 4000) for _ in range(rng.randrange(200, 1500))]
        body["prompt"] = rng.choice([own, shared[0][:rng.randrange(1, 1400)] + own, shared[1][:rng.randrange(1, 1400)] + own, long, "Once upon a time"])
    return body


def make_requests(seed, n):
    rng = random.Random(f"requests {seed}")
    shared = [[rng.randrange(10, 4000) for _ in range(1400)] for _ in range(2)]
    return [make_request(rng, shared) for _ in range(n)]


# --- load ------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask for what they were granted, and judge what comes."""

    def __init__(self, cluster, bodies, expected, args):
        self.cluster, self.bodies, self.expected = cluster, bodies, expected
        self.rng = random.Random(f"load {args.seed}")
        self.granted, self.lock = threading.Semaphore(0), threading.Lock()
        self.counts, self.failures, self.pitied = collections.Counter(), [], []
        self.n_granted = self.n_over = 0
        self.closing = False
        self.threads = [threading.Thread(target=self.client, daemon=True) for _ in range(args.clients)]
        for t in self.threads:
            t.start()

    def grant(self, n):
        self.n_granted += n
        for _ in range(n):
            self.granted.release()

    def client(self):
        while self.granted.acquire() and not self.closing:
            with self.lock:
                i, u = self.rng.randrange(len(self.bodies)), [self.rng.random() for _ in range(3)]
            begun = time.monotonic()
            try:
                self.one(i, u, begun)
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.fail(i, f"{e!r} after {time.monotonic() - begun:.2f} s", begun)
            with self.lock:
                self.n_over += 1

    def fail(self, i, what, begun):
        with self.lock:
            self.failures.append((begun, time.monotonic(), f"{json.dumps(self.bodies[i])[:1500]}\n  {what}"))

    def one(self, i, u, begun):
        body, expected = self.bodies[i], self.expected[i]
        stream = u[0] < 0.6 and "prompt_logprobs" not in body
        leaves = stream and u[1] < 0.2
        a = parts.ask(self.cluster.port, body, stream, int(u[2] * 60) if leaves else None)
        if a.error:
            # whether it was right to give up is judged at the end, when it is known who was there
            with self.lock:
                self.pitied.append((begun, time.monotonic(), i, a))
        elif leaves and not a.ended:
            whole = expected.texts()
            if all(whole[k].startswith(text) for k, text in a.texts().items()):
                self.count("hung up")
            else:
                self.fail(i, f"the beginning of a stream: found {a.texts()!r}, expected {whole!r}", begun)
        elif a.said() == expected.said() and a.ended:
            self.count("identical")
        else:
            f, e = a.said(), expected.said()
            self.fail(i, f"{'stream' if stream else 'whole'}, ended {a.ended}\n  found    {f}\n  expected {e}\n  {parts.difference(f, e)}", begun)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def judge_refusals(self, outages):
        for begun, end, i, a in self.pitied:
            alone = any(o_end - o_begun >= NO_WORKER_S and begun < o_end and end > o_begun for o_begun, o_end in outages)
            if alone and a.status in (200, 503) and a.error["code"] == "no_worker" and "worker was alive" in a.error["message"]:
                self.counts["503" if a.status == 503 else "error event"] += 1
            else:
                self.fail(i, f"status {a.status}: {a.error}, which nothing excuses", begun)

    def close(self):
        self.closing = True
        for _ in self.threads:
            self.granted.release()


# --- faults ----------------------------------------------------------------------------------------------------


class Breaker:
    def __init__(self, cluster, load, bodies, args):
        self.cluster, self.load, self.bodies = cluster, load, bodies
        self.rng = random.Random(f"faults {args.seed}")
        self.begun, self.log, self.outages = time.monotonic(), [], []
        self.roles = {n: {"p": "prefill", "d": "decode", "m": "pool"}[n[0]] for n in cluster.members}
        self.counts = collections.Counter()

    def say(self, text):
        self.log.append(f"{time.monotonic() - self.begun:7.2f} s  {text}")

    def plan(self, n):
        kinds = list(KINDS) * 2 + [self.rng.choice(KINDS) for _ in range(max(0, n - 2 * len(KINDS)))]
        self.rng.shuffle(kinds)
        return kinds

    def pick(self, role):
        return self.rng.choice(sorted(n for n, r in self.roles.items() if r == role))

    def spare(self, name):
        """Waits until it is there, and another that can do its work."""
        role = self.roles[name]
        parts.wait_for(lambda: (r := self.cluster.ready(role)) and name in r and len(r) >= 2, 60, lambda: f"{name} ready and another {role}")
        return self.cluster.members[name]

    def pause(self, low, high):
        time.sleep(self.rng.uniform(low, high))

    def start(self, name):
        part = self.cluster.members[name]
        part.start(self.cluster.pool_args(name) if self.roles[name] == "pool" else self.cluster.worker_args(name, self.roles[name]))

    # Each of these ends with every part started, if not ready.

    def kill(self, role):
        name = self.pick(role)
        self.spare(name).kill()
        self.say(f"{name} killed")
        self.pause(0, 0.8)
        self.start(name)
        self.say(f"{name} started")

    def restart_at_once(self):
        name = self.rng.choice(sorted(self.roles))
        self.spare(name).kill()
        self.start(name)
        self.say(f"{name} killed and started at once")

    def stop(self, role):
        name = self.pick(role)
        part = self.spare(name)
        part.signal(signal.SIGSTOP)
        self.say(f"{name} stopped")
        self.pause(0.2, 2)
        part.signal(signal.SIGCONT)
        self.say(f"{name} goes on")

    def drain(self, role):
        name = self.pick(role)
        part = self.spare(name)
        part.ours = True
        self.cluster.ctl("drain", name)
        code = part.process.wait(60)
        self.say(f"{name} drained and ended with {code}")
        assert code == 0, f"{name}: drained, ended with {code}"
        self.start(name)

    def switch_roles(self):
        """One there, then another back: there are as many of each as before."""
        name = self.pick("prefill")
        back = self.pick("decode")
        self.spare(name)
        self.spare(back)
        self.switch(name, "decode")
        self.pause(0, 0.8)
        self.switch(back, "prefill")

    def switch(self, name, role):
        self.cluster.ctl("role", name, role)
        self.roles[name] = role
        self.say(f"{name} is a {role} worker")

    def disk_full(self):
        part = self.spare("m0")
        _, hard = resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE, (self.rng.choice([0, 5000, 300000]), hard))
        self.say("m0's disk is full")
        self.pause(0.4, 1.2)
        resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        self.say("m0's disk has room")

    def pool_memory(self):
        """It has room for two blocks for a while."""
        name = self.pick("pool")
        part = self.spare(name)
        part.kill()
        part.start(self.cluster.pool_args(name, dram="400K"))
        self.say(f"{name} started with 400K")
        self.cluster.wait_ready([name])
        self.pause(0.3, 1)
        part.kill()
        self.start(name)
        self.say(f"{name} started with its memory")

    def abort_storm(self):
        bodies = [{**self.rng.choice(self.bodies), "max_tokens": 500, "ignore_eos": True} for _ in range(24)]
        for b in bodies:
            b.pop("prompt_logprobs", None)
        self.say("storm")
        parts.storm(self.cluster.port, bodies, self.rng.uniform(0, 0.4))
        self.say("storm over")

    def outage(self, seconds):
        role = self.rng.choice(["prefill", "decode"])
        names = sorted(n for n, r in self.roles.items() if r == role)
        self.spare(names[0])
        begun = time.monotonic()
        for n in names:
            self.cluster.members[n].kill()
        self.say(f"{names} killed")
        time.sleep(seconds)
        for n in names:
            self.start(n)
        parts.wait_for(lambda: self.cluster.ready(role), 60, f"a {role} worker")
        self.say(f"a {role} worker is there again")
        self.outages.append((begun, time.monotonic()))

    def fault(self, kind):
        word, _, role = kind.partition(" ")
        if kind == "drain worker":
            role = self.rng.choice(["prefill", "decode"])
        if word in ("kill", "stop", "drain"):
            getattr(self, word)(role)
        elif role == "outage":
            self.outage(0.3 * NO_WORKER_S if word == "short" else NO_WORKER_S + 0.7)
        else:
            getattr(self, kind.replace(" ", "_"))()
        self.counts[kind] += 1

    def run(self, n_requests, n_faults, clients):
        plan = self.plan(n_faults)
        for k, kind in enumerate(plan):
            self.load.grant((k + 1) * n_requests // len(plan) - k * n_requests // len(plan))
            self.pause(0, 0.25)
            self.fault(kind)
            if self.load.failures or self.cluster.dead():
                return
            if self.rng.random() < 0.4:
                self.cluster.wait_ready()
            parts.wait_for(lambda: self.load.n_granted - self.load.n_over <= 2 * clients, 120, "requests go on")


# --- the whole -------------------------------------------------------------------------------------------------


def learn(bodies, args):
    serve = parts.Serve(args.bin, args.model, threads=2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        expected = list(pool.map(lambda b: parts.ask(serve.port, b), bodies))
    code = serve.stop()
    for b, a in zip(bodies, expected):
        if a.status != 200:
            sys.exit(f"break: serve: {a.status} {a.error} for {json.dumps(b)[:500]}")
    if code != 0:
        sys.exit(f"break: serve ended with {code}")
    return expected


def break_it(cluster, bodies, expected, args):
    """(load, breaker, what is wrong)"""
    load = Load(cluster, bodies, expected, args)
    breaker = Breaker(cluster, load, bodies, args)
    wrong = []
    try:
        breaker.run(args.requests, args.faults or args.requests // 25, args.clients)
        parts.wait_for(lambda: load.n_over == load.n_granted, 90, lambda: f"the last {load.n_granted - load.n_over} requests are answered")
        cluster.wait_ready()
        cluster.wait_quiet()
    except (TimeoutError, RuntimeError, AssertionError, OSError) as e:
        wrong.append(f"{type(e).__name__}: {e}")
        breaker.say(wrong[0])
    load.close()
    load.judge_refusals(breaker.outages)
    return load, breaker, wrong


def report(cluster, load, breaker, wrong):
    for begun, end, text in load.failures[:5]:
        print(f"FAILED, asked at {begun - breaker.begun:.2f} s, over at {end - breaker.begun:.2f} s: {text}\n")
    for what in wrong:
        print(f"FAILED: {what}\n")
    print("\n".join(["faults:", *breaker.log]))
    print(f"{len(load.failures)} requests failed; logs are in {cluster.top}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--bin", default=parts.BIN)
    p.add_argument("--model", default=parts.MODEL)
    p.add_argument("--requests", type=int, default=300)
    p.add_argument("--faults", type=int, default=0, help="at least two of each kind (default: one for 25 requests)")
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("break: told to stop"))
    begun = time.monotonic()
    bodies = make_requests(args.seed, min(args.requests // 5, 400))
    expected = learn(bodies, args)
    learned = time.monotonic()
    cluster = parts.Cluster(no_worker_s=NO_WORKER_S, binary=args.bin, model=args.model)
    view = {}
    try:
        load, breaker, wrong = break_it(cluster, bodies, expected, args)
        with contextlib.suppress(OSError):
            view = cluster.view()
        wrong += cluster.stop()
    finally:
        cluster.end()
    c = load.counts
    if load.failures or wrong:
        report(cluster, load, breaker, wrong)
    else:
        cluster.remove()
    print(f"break: seed {args.seed}: {load.n_over} requests: {c['identical']} identical, {c['hung up']} hung up, {c['503']} times 503 and "
          f"{c['error event']} error events without a worker, {len(load.failures)} failed; {sum(breaker.counts.values())} faults: "
          + ", ".join(f"{k} {breaker.counts[k]}" for k in KINDS)
          + f"; {view.get('moved')} moved, {view.get('handovers')} hand-overs, {view.get('deaths')} deaths, {view.get('joins')} joins; "
          f"{learned - begun:.0f} + {time.monotonic() - learned:.0f} s: {'FAILED' if load.failures or wrong else 'nothing is held'}")
    sys.exit(bool(load.failures or wrong))


if __name__ == "__main__":
    main()
