# SPDX-License-Identifier: Apache-2.0
"""Clusters of real processes that lose their parts under load (tests/soak/break.py does it at random and says what must hold)."""
import contextlib, os, random, re, signal, subprocess, sys, threading, time

import pytest

from test_serve import BIN, ROOT, SANITIZED

sys.path.insert(0, os.path.join(ROOT, "tests/soak"))
import parts
from parts import Cluster, Serve, Stream, ask, wait_for

ROUNDS = int(os.environ.get("BREAK_ROUNDS", "10"))  # 100 in make soak
LONG = {"ignore_eos": True, "temperature": 0.9, "max_tokens": 1500}


@pytest.fixture(scope="module")
def serve():
    s = Serve()
    yield s
    assert s.stop() == 0


@contextlib.contextmanager
def running(**kw):
    """A cluster at whose end nothing is held, and every part ends well."""
    c = Cluster(**kw)
    try:
        yield c
        c.wait_ready()
        c.wait_quiet()
        assert c.stop() == []
        c.remove()
    finally:
        c.end()


def prompt(seed, n):
    r = random.Random(f"prompt {seed}")
    return [r.randrange(10, 4000) for _ in range(n)]


# --- at random -------------------------------------------------------------------------------------------------


def test_everything_breaks_at_least_twice_and_every_answer_is_that_of_serve():
    p = subprocess.run([sys.executable, os.path.join(ROOT, "tests/soak/break.py"), "--bin", BIN, "--requests", "100" if SANITIZED else "300", "--seed", "1"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=570)
    print(p.stdout)
    assert p.returncode == 0
    line = p.stdout.splitlines()[-1]
    faults = dict(re.findall(r"([a-z ]+) (\d+)[,;]", line.split(" faults: ")[1].split("; ")[0] + ";"))
    kinds = ("kill prefill", "kill decode", "kill pool", "restart at once", "stop prefill", "stop decode", "stop pool", "drain worker", "drain pool",
             "switch roles", "disk full", "pool memory", "abort storm", "short outage", "long outage")
    assert all(int(faults[" " + k if k != kinds[0] else k]) >= 2 for k in kinds), line


# --- workers ---------------------------------------------------------------------------------------------------


STREAMS = {"plain": {}, "two choices": {"n": 2}, "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
           "logprobs": {"logprobs": 2, "n": 2, "top_p": 0.95}, "stop": {"n": 2}}


def test_a_stream_goes_on_with_the_next_token_when_its_decode_worker_is_killed(serve):
    with running(pool=1) as c:
        for i, (name, fields) in enumerate(STREAMS.items()):
            body = {"prompt": prompt(name, 300), "seed": i, **LONG, **fields}
            expected = ask(serve.port, body)
            if name == "stop":
                body["stop"] = [text[-200:-190] for text in expected.texts().values()]
                expected = ask(serve.port, body)
                assert [ch.finish[0] for ch in expected.choices.values()] == ["stop", "stop"]
            moved = c.view()["moved"]
            stream = Stream(c.port, body)
            stream.wait_events(40)
            victim = wait_for(lambda: c.busy("decode"), 20, "it decodes")
            c.members[victim].kill()
            answer = stream.result()
            assert answer.said() == expected.said() and answer.ended, name
            assert c.view()["moved"] > moved, name
            c.members[victim].start()
            c.wait_ready()


def test_prompts_are_computed_elsewhere_when_their_prefill_worker_is_killed(serve):
    bodies = [{"prompt": prompt(i, 1500), "seed": i, "max_tokens": 20} for i in range(8)]
    expected = [ask(serve.port, b).said() for b in bodies]
    with running(pool=1) as c:
        streams = [Stream(c.port, b) for b in bodies]
        wait_for(lambda: c.view()["prefilling"] >= 4, 60, "prompts are computed")
        victim = wait_for(lambda: c.busy("prefill"), 20, "they are computed")
        c.members[victim].kill()
        c.members[victim].start()
        assert [s.result().said() for s in streams] == expected
        assert c.view()["moved"] > 0


@pytest.mark.parametrize("role,name", [("decode", "d0"), ("prefill", "p0")])
def test_without_a_worker_of_a_role_requests_end_with_a_clear_error(serve, role, name):
    body = {"prompt": prompt(role, 200), "seed": 4, **LONG, "max_tokens": 3000}
    with running(prefill=1, decode=1, pool=0, no_worker_s=1) as c:
        stream = Stream(c.port, body)
        stream.wait_events(10)
        c.members[name].kill()
        begun = time.monotonic()
        refused = ask(c.port, {**body, "max_tokens": 5})
        assert refused.status == 503 and refused.error["code"] == "no_worker" and f"no {role} worker was alive for 1 s" in refused.error["message"]
        assert 0.9 < time.monotonic() - begun < 30
        answer = stream.result()
        if role == "decode":  # it cannot go on
            assert answer.status == 200 and "no decode worker was alive for 1 s" in answer.error["message"]
            assert all(choice.finish is None for choice in answer.choices.values())
        else:
            assert answer.said() == ask(serve.port, body).said()
        c.members[name].start()
        c.wait_ready()
        assert ask(c.port, body).said() == ask(serve.port, body).said()


def test_either_side_of_hand_overs_restarted_again_and_again_leaks_no_page(serve):
    bodies = [{"prompt": prompt(i, 100 + 170 * i), "seed": i, "temperature": 1, "max_tokens": 30, "n": 1 + i % 2, "ignore_eos": True} for i in range(10)]
    expected = [ask(serve.port, b).said() for b in bodies]
    over, wrong = threading.Event(), []

    def client(r):
        while not over.is_set() and not wrong:
            i = r.randrange(len(bodies))
            said = ask(c.port, bodies[i], stream=r.random() < 0.5).said()
            if said != expected[i]:
                wrong.append((bodies[i], said, expected[i]))

    with running(prefill=1, decode=1, pool=1) as c:
        threads = [threading.Thread(target=client, args=(random.Random(k),), daemon=True) for k in range(6)]
        for t in threads:
            t.start()
        r, handovers = random.Random(7), 0
        for k in range(ROUNDS):
            wait_for(lambda: wrong or c.view()["handovers"] > handovers, 60, "a hand-over")
            time.sleep(r.random() * 0.1)
            name = ("p0", "d0")[k % 2]
            c.members[name].kill()
            c.members[name].start()
            c.wait_ready()
            handovers = c.view()["handovers"]
        over.set()
        for t in threads:
            t.join(90)
        assert not wrong, parts.difference(*wrong[0][1:])
        assert not any(t.is_alive() for t in threads)
        assert c.view()["moved"] > 0


def test_a_storm_of_clients_that_hang_up_disturbs_nobody(serve):
    body = {"prompt": prompt("calm", 500), "seed": 1, **LONG, "n": 2}
    expected = ask(serve.port, body).said()
    with running(prefill=1, decode=1, pool=1) as c:
        for seconds in (0, 0.02, 0.1, 0.4):
            calm = Stream(c.port, body)
            parts.storm(c.port, [{"prompt": prompt(i, 50 * (i + 1)), **LONG, "n": 1 + i % 3} for i in range(40)], seconds)
            assert calm.result().said() == expected
            c.wait_quiet()


# --- the router ------------------------------------------------------------------------------------------------


def test_a_killed_routers_streams_end_and_another_serves_with_the_same_members(serve):
    body = {"prompt": prompt("router", 700), **LONG, "max_tokens": 3000}
    with running(pool=1) as c:
        pids = {n: p.process.pid for n, p in c.members.items()}
        streams = [Stream(c.port, {**body, "seed": i}) for i in range(4)]
        for s in streams:
            s.wait_events(5)
        waiting = [Stream(c.port, {**body, "prompt": prompt(i, 3000), "max_tokens": 900}) for i in range(4)]  # queued, or in the prompt
        time.sleep(0.05)
        c.router.kill()
        for s in streams + waiting:
            s.join(60)
            assert not s.is_alive() and (s.failed or not s.answer.ended)
            assert not s.latest or all(choice.finish is None for choice in s.latest.choices.values())
        for name in ("p0", "p1", "d0", "d1"):
            idle = lambda m: not any(m[k] for k in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "handover_lent",
                                                    "handover_reserved", "handover_pages_leaked"))
            wait_for(lambda: idle(c.members[name].metrics()), 25, f"{name} holds nothing")
        c.start_router()
        c.wait_ready()
        assert {n: p.process.pid for n, p in c.members.items()} == pids
        assert ask(c.port, {**body, "seed": 0}).said() == ask(serve.port, {**body, "seed": 0}).said()


# --- the pool --------------------------------------------------------------------------------------------------


def restart_workers(c):
    workers = [n for n in c.members if n[0] != "m"]
    for n in workers:
        c.members[n].kill()
    for n in workers:
        c.members[n].start()
    c.wait_ready()
    servers = len(c.members) - len(workers)
    wait_for(lambda: all(c.members[n].metrics()["pool_servers"] == servers for n in workers), 30, "workers know the pool")


def cached(c, serve, seed, n):
    """cached_tokens of a prompt whose answer is right."""
    body = {"prompt": prompt(seed, n), "seed": 1, "max_tokens": 8}
    answer = ask(c.port, body)
    assert answer.said() == ask(serve.port, body).said()
    return answer.cached


def stored(c, n):
    wait_for(lambda: sum(c.members[m].metrics()["pool_stored_total"] for m in c.members if m[0] == "m") >= n, 30, f"{n} blocks stored")


def test_prefixes_are_in_the_pool_when_all_workers_were_restarted(serve):
    with running(pool=2, dram="8M") as c:
        assert cached(c, serve, "a", 1300) == 0
        stored(c, 10)
        restart_workers(c)
        assert cached(c, serve, "a", 1300) == 1280


def test_prefixes_are_on_the_pools_ssd_when_everything_was_restarted(serve):
    with running(pool=1, dram="2M", ssd_bytes="16M") as c:
        assert cached(c, serve, "a", 1000) == 0
        stored(c, 7)
        for i in range(3):  # they push it out of DRAM
            cached(c, serve, i, 1600)
        stored(c, 7 + 3 * 12)
        wait_for(lambda: c.members["m0"].metrics()["pool_ssd_blocks"] >= 20, 30, "blocks on SSD")
        c.members["m0"].kill()
        c.members["m0"].start()
        restart_workers(c)
        assert cached(c, serve, "a", 1000) == 896


def test_blocks_of_a_stopped_pool_server_are_found_until_it_is_fenced(serve):
    with running(pool=1, dram="8M", timeout_ms=5000) as c:
        for seed in ("a", "b"):
            assert cached(c, serve, seed, 1300) == 0
        stored(c, 20)
        restart_workers(c)
        c.members["m0"].signal(signal.SIGSTOP)
        try:
            assert cached(c, serve, "a", 1300) == 1280
            wait_for(lambda: "m0" not in [m["name"] for m in c.view()["members"]], 60, "it is fenced")
            assert "m0 gone (silent)" in [e["text"] for e in c.view()["events"]]
            assert cached(c, serve, "b", 1300) == 0
        finally:
            c.members["m0"].signal(signal.SIGCONT)
        c.wait_ready()
