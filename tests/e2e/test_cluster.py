# SPDX-License-Identifier: Apache-2.0
"""A cluster as its users see it: `up`, `ctl`, clients, what it shows, and what is left when it ends. Real processes on one host."""
import concurrent.futures, json, os, re, shutil, signal, stat, subprocess, tempfile, time, urllib.error, urllib.request

import openai
import pytest

import browser
from test_engine import answer, random_bodies
from test_serve import BIN, HELLO, HOST, LONG, MODEL, Server, read_until, request_bytes
from test_serving import wait_for

SMALL = ("--kv-cache-memory", "24M", "--dram", "32M")


def ctl(directory, *args):
    return subprocess.run([BIN, "ctl", *args, "--cluster", directory], capture_output=True, text=True, timeout=60)


class Cluster(Server):
    """A running `supernode up`; the rest is what Server does with a port."""

    def __init__(self, *flags, prefill=1, decode=1, pool=1, name="tiny", **popen):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([BIN, "up", MODEL, "--port", "0", "--served-model-name", name, "--prefill", str(prefill), "--decode", str(decode),
                                         "--pool", str(pool), *SMALL, *flags], stdout=subprocess.PIPE, stderr=self.errors, text=True, **popen)
        self.printed = ""
        for line in self.process.stdout:
            self.printed += line
            if line.startswith("serving "):
                break
        found = re.search(r"serving\s+http://127\.0\.0\.1:(\d+)", self.printed)
        assert found, (self.printed, self.log())
        self.port = int(found.group(1))
        self.dir = re.search(r"cluster\s+(\S+)", self.printed).group(1)
        self.client = openai.OpenAI(base_url=f"http://{HOST}:{self.port}/v1", api_key="none", max_retries=0, timeout=300)
        wait_for(lambda: len(self.view()["members"]) == prefill + decode + pool, 10)  # it is a copy, made a few times a second

    def get(self, path):
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=60) as r:
            return r.read().decode()

    def view(self):
        return json.loads(self.get("/cluster"))

    def member(self, name):
        return next((m for m in self.view()["members"] if m["name"] == name), None)

    def children(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return [int(pid) for pid in f.read().split()]

    def rest(self):
        return self.process.stdout.read()


@pytest.fixture(scope="module")
def cluster():
    c = Cluster()
    yield c
    c.stop()


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- answers -----------------------------------------------------------------------------------------------------


def test_answers_are_those_of_serve_bit_for_bit(cluster):
    bodies = list(random_bodies(24, seed=5))
    alone = Server("--threads", "1")
    expected = [answer(alone, b) for b in bodies]
    alone.stop()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda b: answer(cluster, b), bodies)) == expected
    v = cluster.view()
    assert v["handovers"] > 0 and v["failed"] == 0


def test_the_official_client_streams(cluster):
    whole = cluster.client.chat.completions.create(model="tiny", messages=HELLO, seed=3, max_tokens=60).choices[0].message.content
    parts = cluster.client.chat.completions.create(model="tiny", messages=HELLO, seed=3, max_tokens=60, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == whole


def test_a_prompt_that_does_not_fit_is_refused_as_by_serve(cluster):
    status, _, error = cluster.complete(prompt=[5] * 20000)
    assert status == 400 and error["error"]["code"] == "context_length_exceeded"


def test_a_client_that_leaves_frees_what_it_had(cluster):
    s = cluster.socket(request_bytes("/v1/completions", {"prompt": [5] * 300, "max_tokens": 7000, "stream": True, **LONG}))
    read_until(s, b"data: ")
    s.close()
    wait_for(lambda: cluster.view()["decoding"] == 0 and all(m["load"]["running"] == 0 and m["load"]["lent"] == 0 and m["load"]["reserved"] == 0
                                                             for m in cluster.view()["members"] if m["role"] != "pool"), 20)


# --- what it shows -----------------------------------------------------------------------------------------------


def test_ctl_lists_the_members(cluster):
    p = ctl(cluster.dir, "list")
    assert p.returncode == 0, p.stderr
    assert re.search(r"^prefill +p0 +ready", p.stdout, re.M) and re.search(r"^decode +d0 +ready", p.stdout, re.M) and re.search(r"^pool +m0 +ready", p.stdout, re.M)
    members = json.loads(ctl(cluster.dir, "list", "--json").stdout)["members"]
    assert [m["name"] for m in members] == ["p0", "d0", "m0"] and {m["pid"] for m in members} <= set(cluster.children())


def promtool(text):
    if not shutil.which("promtool"):
        return
    p = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stdout + p.stderr


def test_the_router_shows_every_member_in_its_metrics(cluster):
    text = cluster.get("/metrics")
    promtool(text)
    assert 'supernode_cluster_member{name="d0",role="decode",state="ready"} 1' in text
    assert json.loads(cluster.get("/health"))["status"] == "ok"


def test_every_part_has_metrics_and_health():
    c = Cluster("--metrics")
    try:
        for name, what in [("p0", "supernode_prompt_tokens_total"), ("d0", "supernode_handover_pulls_total"), ("m0", "supernode_pool_stored_total")]:
            with open(f"{c.dir}/{name}.log") as f:
                url = re.search(r"http://127\.0\.0\.1:\d+", f.read()).group(0)
            with urllib.request.urlopen(url + "/metrics", timeout=60) as r:
                text = r.read().decode()
            promtool(text)
            assert what in text and f'supernode_cluster_self{{name="{name}"' in text
            with urllib.request.urlopen(url + "/health", timeout=60) as r:
                assert r.status == 200
    finally:
        c.stop()


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium: run tools/install-deps --tests")
def test_the_page_shows_the_cluster_live(cluster):
    b = browser.Browser()
    try:
        b.open(f"http://{HOST}:{cluster.port}/")
        b.wait("!document.getElementById('cluster-toggle').hidden")
        b.click("#cluster-toggle")
        b.wait("document.querySelectorAll('#members li').length === 3")
        assert b.js("Array.from(document.querySelectorAll('#members .name'), e => e.textContent).join()") == "p0,d0,m0"
        assert "joined" in b.js("document.getElementById('cluster-events').textContent")
        handovers = "[...document.querySelectorAll('#cluster-facts div')].find(e => e.textContent.startsWith('hand-overs')).querySelector('dd').textContent"
        before = int(b.js(handovers))
        cluster.complete(prompt=[5, 6, 7], max_tokens=5)
        b.wait(f"Number({handovers}) > {before}")
        b.screenshot(os.path.join(os.path.dirname(BIN), "page-cluster.png"))
        b.click("#cluster-toggle")
        b.wait("document.getElementById('cluster').hidden")
        bad = [e for e in b.events if e["method"] == "Runtime.exceptionThrown" or
               e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] in ("error", "warning") and "favicon.ico" not in e["params"]["entry"].get("url", "")]
        assert bad == []
    finally:
        b.close()


# --- changes -----------------------------------------------------------------------------------------------------


def test_roles_change_and_members_leave_while_requests_run():
    c = Cluster(prefill=2, decode=2)
    try:
        expected = [answer(c, b) for b in random_bodies(6, seed=9)]
        assert ctl(c.dir, "role", "p1", "decode").returncode == 0
        wait_for(lambda: (m := c.member("p1")) and m["role"] == "decode", 20)
        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            running = [threads.submit(answer, c, b) for b in random_bodies(6, seed=9)]
            assert ctl(c.dir, "drain", "d1").returncode == 0
            assert [r.result() for r in running] == expected
        wait_for(lambda: c.member("d1") is None, 20)
        time.sleep(2)
        assert c.member("d1") is None  # up does not start again what was drained
        p = ctl(c.dir, "drain", "nobody")
        assert p.returncode == 1 and "nobody" in p.stderr and p.stderr.count("\n") == 1
    finally:
        c.stop()


def test_who_drained_is_seen_at_once_and_said_once():
    c = Cluster("--no-worker-timeout", "1")
    try:
        assert ctl(c.dir, "drain", "d0").returncode == 0
        with pytest.raises(urllib.error.HTTPError) as e:
            c.get("/health")
        assert e.value.code == 503
        wait_for(lambda: c.member("d0") is None, 20)
        status, _, error = c.complete(prompt=[5, 6, 7], max_tokens=5)
        assert status == 503 and error["error"]["code"] == "no_worker"
        wait_for(lambda: c.member("m0") is not None and len(c.view()["events"]) >= 5, 10)
        time.sleep(1.5)  # up looks once a second
    finally:
        c.stop()
    assert c.rest().count("d0 left") == 1


def test_pool_servers_fill_their_ssd_and_find_it_again(tmp_path):
    c = Cluster("--ssd", str(tmp_path / "ssd"), "--ssd-bytes", "32M", "--dram", "2M")
    try:
        prompts = [[7 + i] * 1500 for i in range(12)]  # 11 blocks each, 140 KB a block
        expected = [answer(c, {"prompt": p, "seed": 1, "max_tokens": 5}) for p in prompts]
        wait_for(lambda: (m := c.member("m0")) and m["load"]["bytes_ssd"] > 1 << 20, 20)
        for name in ("m0", "p0"):
            os.kill(c.member(name)["pid"], signal.SIGKILL)
        wait_for(lambda: len(c.view()["members"]) == 3 and c.view()["deaths"] >= 2, 30)
        wait_for(lambda: (m := c.member("m0")) and m["load"]["bytes_ssd"] > 1 << 20, 20)
        assert [answer(c, {"prompt": p, "seed": 1, "max_tokens": 5}) for p in prompts] == expected
        wait_for(lambda: (m := c.member("p0")) and m["load"]["prompt_from_pool"] > 0, 5)
    finally:
        c.stop()


def test_a_killed_worker_is_an_event_and_comes_back():
    c = Cluster(decode=2)
    try:
        pid = c.member("d1")["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: (m := c.member("d1")) and m["pid"] != pid, 30)
        assert c.view()["deaths"] >= 1
        assert c.complete(prompt=[5, 6, 7], seed=1, max_tokens=5)[0] == 200
    finally:
        c.stop()
    assert re.search(r"d1 ended \(killed by signal 9", c.rest())


def test_a_worker_that_came_again_finds_all_that_waited_for_it_in_the_pool():
    c = Cluster("--dram", "64M")
    prompts = [[10 + i] * 1500 for i in range(16)]  # more than is computed before a link would be up

    def cached(prompt):
        status, _, body = c.complete(prompt=prompt, seed=1, max_tokens=1)
        assert status == 200
        return body["usage"]["prompt_tokens_details"]["cached_tokens"]

    try:
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            assert list(threads.map(cached, prompts)) == [0] * 16
            wait_for(lambda: (m := c.member("m0")) and m["load"]["pages_used"] == 16 * 11, 20)
            os.kill(c.member("p0")["pid"], signal.SIGKILL)
            assert list(threads.map(cached, prompts)) == [11 * 128] * 16
    finally:
        c.stop()


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", ["p", "d"])
def test_streams_go_on_with_the_next_token_when_a_worker_is_lost(sig, who):
    c = Cluster("--peer-timeout-ms", "500", prefill=2, decode=2)
    bodies = [{"prompt": [10 + i] * (900 if who == "p" else 200), "seed": i, "max_tokens": 600, "min_tokens": 600, "stream": True} for i in range(4)]
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            def read(body):
                text = b""
                s = c.socket(request_bytes("/v1/completions", body, "Connection: close\r\n"), 120)
                while part := s.recv(65536):
                    text += part
                return "".join(json.loads(line)["choices"][0]["text"] for line in re.findall(rb"^data: (\{.*\})\r?$", text, re.M))
            expected = list(threads.map(read, bodies))
            running = [threads.submit(read, {**b, "cache_salt": "again"}) for b in bodies]
            time.sleep(0.3 if who == "d" else 0.1)
            busiest = max((m for m in c.view()["members"] if m["name"].startswith(who)), key=lambda m: m["flights"])
            os.kill(busiest["pid"], sig)
            assert [r.result() for r in running] == expected and all(expected)
        assert c.view()["failed"] == 0
        if sig == signal.SIGSTOP:
            os.kill(busiest["pid"], signal.SIGCONT)
        wait_for(lambda: len(c.view()["members"]) == 5, 30)
    finally:
        c.stop()


def test_members_find_a_router_that_was_started_again():
    c = Cluster()
    router = next(pid for pid in c.children() if b"router" in open(f"/proc/{pid}/cmdline", "rb").read())
    os.kill(router, signal.SIGKILL)

    def back():  # at the port it had
        try:
            return len(c.view()["members"]) == 3 and all(m["state"] == "ready" for m in c.view()["members"])
        except OSError:
            return False
    try:
        wait_for(back, 30)
        assert c.complete(prompt=[5, 6, 7], seed=1, max_tokens=5)[0] == 200
        # it computes again before it says so: its log has a thread of its own
        wait_for(lambda: "decode: joined again" in open(f"{c.dir}/d0.log").read(), 10)
        assert "decode: lost the router; looking for it" in open(f"{c.dir}/d0.log").read()
    finally:
        c.stop()


def by_hand(*args):
    return subprocess.Popen([BIN, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_member_tells_every_router_it_joined_and_that_there_is_none_yet(tmp_path):
    d = tmp_path / "cluster"
    d.mkdir(mode=0o700)
    log = open(tmp_path / "m0.log", "w+")
    member = subprocess.Popen([BIN, "pool", "--cluster", str(d), "--dram", "16M"], stdout=log, stderr=log)
    said = lambda: re.findall(r"pool: (looking for the router|joined again|joined|lost the router|left)", open(tmp_path / "m0.log").read())
    try:
        wait_for(lambda: said() == ["looking for the router"], 20)
        for _ in range(4):
            router = by_hand("router", MODEL, "--cluster", str(d), "--port", "0")

            def there():  # and it said how much it can hold, so it knows that it joined
                p = ctl(d, "list", "--json")
                return p.returncode == 0 and (m := json.loads(p.stdout)["members"]) and m[0]["load"]["bytes_dram_max"] > 0
            wait_for(there, 20)
            router.kill()  # at once: it was there for a moment
            router.communicate()
        wait_for(lambda: len(said()) == 9, 20)
    finally:
        member.terminate()
        member.wait(30)
        log.close()
    assert said() == ["looking for the router", "joined", "lost the router", *["joined again", "lost the router"] * 3, "left"]


def test_without_a_worker_of_a_role_there_is_a_clear_503():
    c = Cluster("--no-restart", "--no-worker-timeout", "1")
    try:
        os.kill(c.member("d0")["pid"], signal.SIGKILL)
        wait_for(lambda: c.member("d0") is None, 10)
        status, headers, error = c.complete(prompt=[5, 6, 7], max_tokens=5)
        assert status == 503 and error["error"]["code"] == "no_worker" and "decode" in error["error"]["message"]
        with pytest.raises(urllib.error.HTTPError) as e:
            c.get("/health")
        assert e.value.code == 503 and "no decode worker" in e.value.read().decode()
    finally:
        c.stop()


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_and_no_file(sig):
    c = Cluster()
    pids = c.children()
    assert len(pids) == 4
    c.stop(sig)
    assert all(gone(pid) for pid in pids) and not os.path.exists(c.dir)


def test_nothing_survives_a_killed_up():
    c = Cluster()
    pids = c.children()
    c.process.kill()
    c.process.wait(30)
    wait_for(lambda: all(gone(pid) for pid in pids), 10)
    shutil.rmtree(c.dir)


# --- refusals ----------------------------------------------------------------------------------------------------


def fails(*args, code=1, **popen):
    p = subprocess.run([BIN, *args], capture_output=True, text=True, timeout=120, **popen)
    assert p.returncode == code, (p.stdout, p.stderr)
    assert p.stderr.startswith("supernode: ") and p.stderr.count("\n") == 1, p.stderr
    return p.stderr


def test_up_says_why_a_part_cannot_start(cluster, tmp_path):
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    said = fails("up", MODEL, "--port", str(cluster.port), *SMALL, env=env)
    assert f"port {cluster.port} is in use" in said
    (logs,) = tmp_path.iterdir()
    assert (logs / "router.log").exists() and f"its logs are in {logs}" in said
    assert "no-such-model" in fails("up", "/no-such-model", env=env)
    assert "--prefill" in fails("up", "--prefill", "0", code=2, env=env)
    ssd = tmp_path / "ssd"
    assert "need each other" in fails("up", MODEL, "--ssd", str(ssd), code=2, env=env)
    assert "no-such-model" in fails("up", "/no-such-model", "--ssd", str(ssd), "--ssd-bytes", "1M", env=env)
    assert "too long" in fails("up", MODEL, "--cluster", str(tmp_path / ("x" * 120)), env=env)
    assert list(tmp_path.iterdir()) == [logs]


def test_one_up_runs_in_a_directory_and_the_second_harms_nothing(cluster):
    logs = {name: open(f"{cluster.dir}/{name}.log").read() for name in ("router", "p0", "d0", "m0")}
    assert all(logs.values())
    said = fails("up", MODEL, "--port", "0", "--cluster", cluster.dir)
    assert "up runs already" in said and all(open(f"{cluster.dir}/{name}.log").read().startswith(logs[name]) for name in logs)


def test_up_does_not_take_a_member_of_the_same_name_for_its_own(tmp_path):
    d = tmp_path / "cluster"
    d.mkdir(mode=0o700)
    parts = [by_hand("router", MODEL, "--cluster", str(d), "--port", "0"), by_hand("pool", "--cluster", str(d), "--name", "m0", "--dram", "16M")]
    try:
        wait_for(lambda: ctl(d, "list").stdout.count("ready") == 1, 20)
        assert "runs already" in fails("up", MODEL, "--port", "0", "--cluster", str(d), *SMALL)
    finally:
        for p in parts:
            p.terminate()
            p.communicate()


def test_ctl_finds_the_one_cluster_that_runs(tmp_path):
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    assert "no cluster runs" in fails("ctl", "list", env=env)
    clusters = [Cluster("--kv-cache-memory", "24M", pool=0, env=env)]
    try:
        listed = subprocess.run([BIN, "ctl", "list"], env=env, capture_output=True, text=True, timeout=60)
        assert listed.returncode == 0 and "p0" in listed.stdout
        assert re.match(r"model +\S+.*\nmemory .*8192 tokens the longest", clusters[0].printed)
        clusters.append(Cluster("--kv-cache-memory", "24M", pool=0, env=env))
        said = fails("ctl", "list", env=env)
        assert "2 clusters run" in said and all(c.dir in said for c in clusters)
    finally:
        for c in clusters:
            c.stop()


def test_a_directory_that_others_may_enter_is_refused(tmp_path):
    d = tmp_path / "open"
    d.mkdir(mode=0o755)
    for command in (["router"], ["prefill"], ["pool"], ["ctl", "list"]):
        assert "others must not enter" in fails(*command, "--cluster", str(d))
    assert "no directory" in fails("pool", "--cluster", __file__)


def test_the_secret_is_its_owners_alone(cluster):
    mode = os.stat(f"{cluster.dir}/secret").st_mode
    assert stat.S_IMODE(mode) == 0o600 and stat.S_IMODE(os.stat(cluster.dir).st_mode) == 0o700
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"x" * 64)
        f.flush()
        os.chmod(f.name, 0o600)
        p = subprocess.run([BIN, "ctl", "list", "--cluster", cluster.dir, "--secret-file", f.name], capture_output=True, text=True, timeout=60)
        assert p.returncode == 1 and p.stderr.count("\n") == 1


def test_a_name_is_one_members(cluster):
    assert "p0 runs already" in fails("prefill", MODEL, "--cluster", cluster.dir, "--name", "p0")
    assert "router runs already" in fails("router", MODEL, "--cluster", cluster.dir, "--port", "0")
    assert "--name" in fails("pool", "--cluster", cluster.dir, "--name", "a/b")


def test_a_worker_of_another_kind_is_refused(cluster):
    assert "refused" in fails("decode", MODEL, "--cluster", cluster.dir, "--kv-dtype", "f32", "--kv-cache-memory", "48M")
    assert cluster.member("d1") is None


def test_ctl_without_a_router_says_so(tmp_path):
    d = tmp_path / "empty"
    d.mkdir(mode=0o700)
    assert "no router answers" in fails("ctl", "list", "--cluster", str(d))
    assert "expected list" in fails("ctl", "lst", "--cluster", str(d), code=2)
    assert "found 'pool', expected prefill or decode" in fails("ctl", "role", "p0", "pool", "--cluster", str(d), code=2)
    assert "--json" in fails("ctl", "drain", "p0", "--json", "--cluster", str(d), code=2)
