# SPDX-License-Identifier: Apache-2.0
"""`supernode bench serve` against a small server whose delays are known, so that its figures can be checked, and against ours.

Lower bounds are exact (no figure may be below what the server slept); upper bounds leave room for a busy machine."""
import http.server, json, os, pty, re, ssl, statistics, subprocess, threading, time

import pytest

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))
SLACK_MS = 400 if "san-" in BIN else 60  # what a median may be late


class Fake(http.server.ThreadingHTTPServer):
    """Waits first_s, then sends tokens gap_s apart. behave(i, body) of request i may answer otherwise and returns True then."""
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, first_s=0.1, gap_s=0.02, tokens=5, behave=None, tokenize=True, usage=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.first_s, self.gap_s, self.tokens, self.behave, self.tokenize, self.usage = first_s, gap_s, tokens, behave, tokenize, usage
        self.lock, self.seen, self.arrived, self.running, self.peak = threading.Lock(), [], [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *args):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def whole(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, value):
        self.chunk(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    def begin(self, *headers):
        self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def do_GET(self):
        if self.path == "/v1/models":
            self.whole(200, {"object": "list", "data": [{"id": "fake"}]})
        else:
            self.whole(404, {})

    def do_POST(self):
        s, now = self.server, time.perf_counter()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            if not s.tokenize:
                return self.whole(404, {})
            ids = sorted({7 + sum(map(ord, w)) * 31 % 5000 for w in body["prompt"].split()})
            return self.whole(200, {"tokens": ids, "count": len(ids)})
        chat = "messages" in body
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        n_prompt = len(prompt) if isinstance(prompt, list) else 3 * len(prompt.split()) + 10
        usage = {"prompt_tokens": n_prompt, "completion_tokens": s.tokens, "total_tokens": n_prompt + s.tokens}
        if not body.get("stream"):
            return self.whole(200, {"choices": [{"text": "x"}], "usage": usage})
        with s.lock:
            i = len(s.seen)
            s.seen.append(body)
            s.arrived.append(now)
            s.running += 1
            s.peak = max(s.peak, s.running)
        try:
            if not (s.behave and s.behave(self, i)):
                self.answer(chat, usage)
        finally:
            with s.lock:
                s.running -= 1

    def answer(self, chat, usage):
        s = self.server
        self.begin()
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        begun = time.perf_counter()
        for t in range(s.tokens):
            time.sleep(max(0, begun + s.first_s + t * s.gap_s - time.perf_counter()))
            self.event({"choices": [{"index": 0, "delta": {"content": "é"}} if chat else {"index": 0, "text": "é"}]})
        self.event({"choices": [{"index": 0, "finish_reason": "length", "delta": {}}]})
        if s.usage:
            self.event({"choices": [], "usage": usage})
        self.event(b"[DONE]")
        self.chunk(b"")


def run(*flags, env=None):
    return subprocess.run([BIN, "bench", "serve", *map(str, flags)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **(env or {})})


def bench(url, *flags):
    p = run("--base-url", url, "--json", "--save-detailed", *flags)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return json.loads(p.stdout)


def test_times_are_those_the_server_slept():
    with Fake(first_s=0.1, gap_s=0.02, tokens=6) as s:
        r = bench(s.url, "--num-prompts", 8, "--request-rate", 20, "--random-input-len", 10, "--random-output-len", 6)
    assert r["completed"] == 8 and r["failed"] == 0 and r["model_id"] == "fake"
    assert r["total_output_tokens"] == 48 and r["total_input_tokens"] == 80
    assert 100 <= r["median_ttft_ms"] < 100 + SLACK_MS
    assert 19 <= r["median_tpot_ms"] < 20 + SLACK_MS / 4
    assert 18 <= r["median_itl_ms"] < 20 + SLACK_MS / 4
    assert 199 <= r["median_e2el_ms"] < 200 + 2 * SLACK_MS
    assert all(len(itl) == 5 for itl in r["itls"])
    assert abs(r["output_throughput"] * r["duration"] - 48) < 1e-3 and abs(r["request_throughput"] * r["duration"] - 8) < 1e-3
    assert r["p50_ttft_ms"] <= r["p90_ttft_ms"] <= r["p99_ttft_ms"] and r["std_ttft_ms"] >= 0


def test_percentiles_are_numpys():
    with Fake(first_s=0, gap_s=0.001, tokens=3) as s:
        r = bench(s.url, "--num-prompts", 20, "--request-rate", 200, "--metric-percentiles", "25,50,99.9")
    ttfts = sorted(1e3 * t for t in r["ttfts"])
    for p in (25, 50, 99.9):
        at = p / 100 * 19
        expected = ttfts[int(at)] + (ttfts[min(int(at) + 1, 19)] - ttfts[int(at)]) * (at - int(at))
        assert abs(r[f"p{p}_ttft_ms"] - expected) < 1e-3
    assert abs(r["mean_ttft_ms"] - statistics.fmean(ttfts)) < 1e-3 and abs(r["std_ttft_ms"] - statistics.pstdev(ttfts)) < 1e-3


def test_arrivals_do_not_wait_for_answers():
    """One request at a time takes 100 ms; 20 come within half a second. The last waits for all before it, and that counts."""
    turn = threading.Lock()

    def behave(h, i):
        with turn:
            h.answer(False, {"prompt_tokens": 1, "completion_tokens": 2})
        return True

    with Fake(first_s=0.09, gap_s=0.01, tokens=2, behave=behave) as s:
        r = bench(s.url, "--num-prompts", 20, "--request-rate", 40, "--seed", 1)
    span = s.arrived[-1] - s.arrived[0]
    planned = r["start_times"][-1] - r["start_times"][0]
    assert planned < 0.6 and span < 1.4, (span, planned)  # 1.9 s if they waited
    assert max(r["ttfts"]) > 20 * 0.1 - planned - 0.15 and r["max_concurrent_requests"] > 8
    ends = [t + e for t, e in zip(r["start_times"], r["ttfts"])]
    assert max(ends) <= r["duration"] + 0.01


def test_concurrency_limit_and_times_that_count_from_it():
    with Fake(first_s=0.05, gap_s=0, tokens=1) as s:
        closed = bench(s.url, "--num-prompts", 12, "--max-concurrency", 3)
        assert s.peak == 3 and closed["max_concurrent_requests"] == 3
        opened = bench(s.url, "--num-prompts", 12, "--max-concurrency", 3, "--request-rate", 1000)
        assert s.peak == 3
    assert 50 <= closed["median_ttft_ms"] < 50 + SLACK_MS
    assert max(opened["ttfts"]) > 0.15 and opened["p99_late_ms"] > 100  # four turns of 50 ms


def test_poisson_and_burstiness():
    def gaps(*flags):
        p = run("--url", "http://127.0.0.1:9", "--model", "m", "--vocab-size", 100, "--num-prompts", 2000, "--request-rate", 4000,
                "--json", "--save-detailed", "--random-input-len", 1, *flags)
        assert p.returncode == 1 and "none of 2000 requests succeeded" in p.stderr
        r = json.loads(p.stdout)
        assert r["failures"] == {"no connection": 2000}
        t = r["start_times"]
        g = [b - a for a, b in zip(t, t[1:])]
        return statistics.fmean(g) * 4000, statistics.pstdev(g) / statistics.fmean(g)

    mean, cv = gaps()
    assert 0.9 < mean < 1.1 and 0.9 < cv < 1.1
    mean, cv = gaps("--burstiness", "0.25")
    assert 0.8 < mean < 1.2 and 1.7 < cv < 2.3


def test_failures_are_counted_by_kind():
    def behave(h, i):
        kind = i % 7
        if kind == 0:
            return False
        if kind == 1:
            h.whole(503, {"error": {"message": "full \x1b[31m up"}})
        elif kind == 2:
            h.close_connection = True  # no answer at all
        else:
            h.begin(("Connection", "close"))
            if kind == 3:
                h.event({"choices": [{"text": "a"}]})  # and the connection is gone
            elif kind == 4:
                h.event({"error": {"message": "lost"}})
                h.event(b"[DONE]")
                h.chunk(b"")
            elif kind == 5:
                h.event(b"{]")
                h.chunk(b"")
            else:
                h.event(b"[DONE]")
                h.chunk(b"")
            h.close_connection = True
        return True

    with Fake(first_s=0, gap_s=0.001, behave=behave) as s:
        r = bench(s.url, "--num-prompts", 14, "--max-concurrency", 1)
        assert r["completed"] == 2 and r["failed"] == 12 and r["total_output_tokens"] == 10
        assert r["failures"] == {"http 503": 2, "no connection": 2, "cut off": 2, "error in stream": 2, "malformed event": 2, "no text": 2}
        text = run("--url", s.url, "--num-prompts", 7, "--max-concurrency", 1).stdout
    line = text.splitlines()[-1]
    assert line.startswith("failed      ") and "1 http 503" in line and "full" in line and "\x1b" not in text


def test_goodput_counts_requests_that_meet_every_slo():
    def behave(h, i):
        time.sleep(0.5 * (i % 2))
        return False

    with Fake(first_s=0.01, gap_s=0.01, behave=behave) as s:
        r = bench(s.url, "--num-prompts", 10, "--request-rate", 10, "--goodput", "ttft:400", "tpot:200")
        assert abs(r["request_goodput"] * r["duration"] - 5) < 1e-3
        r = bench(s.url, "--num-prompts", 4, "--goodput", "tpot:0.5")
        assert r["request_goodput"] == 0
        assert bench(s.url, "--num-prompts", 2)["request_goodput"] is None


def test_prompts_are_ids_of_the_tokenizer_and_repeat_with_the_seed():
    with Fake(first_s=0, gap_s=0) as s:
        flags = ["--num-prompts", 5, "--random-input-len", 40, "--random-prefix-len", 24, "--random-range-ratio", "0.5", "--ignore-eos",
                 "--max-concurrency", 1, "--random-output-len", 20]
        a = bench(s.url, *flags)
        bench(s.url, *flags)
        bench(s.url, *flags, "--seed", 5)
    one, two, other = s.seen[:5], s.seen[5:10], s.seen[10:]
    assert one == two and one != other
    prompts = [b["prompt"] for b in one]
    assert all(isinstance(i, int) and 7 <= i < 5007 for p in prompts for i in p)
    assert all(p[:24] == prompts[0][:24] for p in prompts) and len({tuple(p[24:34]) for p in prompts}) == 5
    assert all(24 + 20 <= len(p) <= 24 + 60 for p in prompts) and len({len(p) for p in prompts}) > 1
    assert a["input_lens"] == [len(p) for p in prompts]
    assert all(10 <= b["max_tokens"] <= 30 and b["ignore_eos"] is True and b["stream_options"] == {"include_usage": True} for b in one)


def test_words_where_the_server_does_not_tokenise():
    """The fake counts three tokens a word and ten more a prompt: the prompts must have the length asked for."""
    with Fake(first_s=0, gap_s=0, tokenize=False) as s:
        r = bench(s.url, "--num-prompts", 3, "--random-input-len", 300)
        assert all(len(b["prompt"].split()) == 100 for b in s.seen) and r["input_lens"] == [310] * 3
        bench(s.url, "--num-prompts", 1, "--random-input-len", 30, "--endpoint", "/v1/chat/completions")
    chat = s.seen[-1]
    assert len(chat["messages"][0]["content"].split()) == 10 and chat["max_completion_tokens"] == 128 and "prompt" not in chat


def test_tokens_are_counted_without_usage():
    with Fake(first_s=0, gap_s=0, tokens=4, usage=False) as s:
        assert bench(s.url, "--num-prompts", 3)["total_output_tokens"] == 12


def test_mooncake_trace(tmp_path):
    rows = [(0, 1100, 5, [1, 2, 3]), (0, 1300, 9, [1, 2, 4]), (400, 600, 7, [9, 8]), (1000, 1100, 5, [1, 2, 3])]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(dict(zip(("timestamp", "input_length", "output_length", "hash_ids"), r))) + "\n" for r in rows))
    with Fake(first_s=0, gap_s=0) as s:
        r = bench(s.url, "--dataset-name", "trace", "--dataset-path", path, "--trace-speed", 2)
        assert r["start_times"] == pytest.approx([0, 0, 0.2, 0.5]) and sorted(r["input_lens"][:2]) == [1100, 1300]
        by_length = {(len(b["prompt"]), b["max_tokens"]): b["prompt"] for b in s.seen}
        a, b, c = by_length[1100, 5], by_length[1300, 9], by_length[600, 7]
        assert a[:1024] == b[:1024] and a[1024:] != b[1024:1100] and a[:512] != a[512:1024] and c[:512] != a[:512]
        assert s.seen[-1]["prompt"] == a  # the same blocks are the same prompt
        s.seen.clear()
        bench(s.url, "--dataset-name", "trace", "--dataset-path", path, "--trace-scale", 0.125, "--num-prompts", 2, "--trace-speed", 10)
    a, b = sorted((x["prompt"] for x in s.seen), key=len)
    assert (len(a), len(b)) == (138, 163) and a[:128] == b[:128] and a[128:] != b[128:138]


def test_azure_trace_over_midnight(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31 23:59:59.9000000,37,4\r\n2024-01-01 00:00:00.1500000,12,9\n")
    with Fake(first_s=0, gap_s=0) as s:
        r = bench(s.url, "--dataset-name", "trace", "--dataset-path", path)
    assert r["start_times"] == pytest.approx([0, 0.25], abs=1e-4) and [len(b["prompt"]) for b in s.seen] == [37, 12]
    assert [b["max_tokens"] for b in s.seen] == [4, 9]


@pytest.mark.parametrize("text,said", [
    ("", "found no request"), ("hello\n", "line 1: header: found 'hello', expected TIMESTAMP"), ("{\n", "line 1: "),
    ('{"timestamp":0,"input_length":1}\n', "line 1: output_length: found nothing, expected a whole number"),
    ('{"timestamp":5,"input_length":1,"output_length":1}\n{"timestamp":0,"input_length":1,"output_length":1}\n', "line 2: timestamp: found an earlier one"),
    ('{"timestamp":0,"input_length":1,"output_length":1,"hash_ids":["a"]}\n', "hash_ids: found \"a\", expected whole numbers"),
    ('{"timestamp":0,"input_length":-4,"output_length":1}\n', "input_length: found -4"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374\n", "line 2: row: found 2 fields"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18-15,374,4\n", "line 2: TIMESTAMP: found '2023-11-16 18-15', expected YYYY-MM-DD"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "found no request")])
def test_broken_traces_are_sentences(tmp_path, text, said):
    path = tmp_path / "trace"
    path.write_text(text)
    p = run("--url", "http://127.0.0.1:9", "--model", "m", "--dataset-name", "trace", "--dataset-path", path)
    assert p.returncode == 1 and p.stderr.count("\n") == 1 and str(path) in p.stderr and said in p.stderr, p.stderr


def test_wrong_command_lines():
    for flags, code, said in ((["--goodput", "ttft"], 2, "--goodput: found 'ttft', expected ttft:MS"), (["tpot:3"], 2, "unexpected argument 'tpot:3'"),
                              (["--percentile-metrics", "ttft,x"], 2, "found 'x'"), (["--metric-percentiles", "50,101"], 2, "found '50,101'"),
                              (["--url", "ftp://x"], 1, "ftp://x: expected http://HOST:PORT"), (["--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9: nothing answers there"),
                              (["--url", "http://nowhere.invalid"], 1, "nowhere.invalid"), (["--dataset-name", "trace", "--model", "m"], 1, "--dataset-path FILE"),
                              (["--request-rate", "0"], 2, "--request-rate")):
        p = run(*flags)
        assert p.returncode == code and said in p.stderr and p.stderr.count("\n") == 1, (flags, p.stderr)
    help = run("--help").stdout
    assert "--request-rate" in help and "example:" in help and len(help.splitlines()) < 24 and "--burstiness" in run("--help", "all").stdout


def test_a_bar_on_a_terminal_only(tmp_path):
    with Fake(first_s=0.3, gap_s=0) as s:
        out, (pid, fd) = b"", pty.fork()
        if pid == 0:
            os.execv(BIN, [BIN, "bench", "serve", "--url", s.url, "--num-prompts", "6", "--request-rate", "8", "--result-filename",
                           str(tmp_path / "r.json")])
        try:
            while part := os.read(fd, 65536):
                out += part
        except OSError:
            pass
        assert os.waitpid(pid, 0)[1] == 0
    bar, lines = out[:out.rindex(b"\x1b[K")], out[out.rindex(b"\x1b[K"):].decode()
    assert re.search(rb"\[#+-+\].*\d/6 .*req/s .*TTFT p50 \d+ ms .* 0 failed", bar)
    assert re.search(r"requests    6 completed, 0 failed", lines) and f"result      {tmp_path}/r.json" in lines
    assert json.loads((tmp_path / "r.json").read_text())["completed"] == 6


def test_https_checks_the_certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    with Fake(first_s=0, gap_s=0) as s:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        s.socket = context.wrap_socket(s.socket, server_side=True)
        port, flags = s.server_address[1], ["--num-prompts", 5, "--json", "--random-input-len", 5]
        p = run("--url", f"https://localhost:{port}", *flags, env={"SSL_CERT_FILE": str(cert)})
        assert p.returncode == 0 and json.loads(p.stdout)["completed"] == 5, p.stderr
        assert run("--url", f"https://localhost:{port}", *flags).returncode == 1
        assert run("--url", f"https://127.0.0.1:{port}", *flags, env={"SSL_CERT_FILE": str(cert)}).returncode == 1  # another name


def test_a_key_from_the_environment():
    keys = []

    def behave(h, i):
        keys.append(h.headers["Authorization"])
        return False

    with Fake(first_s=0, gap_s=0, behave=behave) as s:
        assert run("--url", s.url, "--num-prompts", 1, env={"OPENAI_API_KEY": "sk-1"}).returncode == 0
    assert keys == ["Bearer sk-1"]


def test_against_our_server(tmp_path):
    server = subprocess.Popen([BIN, "serve", os.path.join(ROOT, "models/tiny"), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        url = next(m.group(1) for line in server.stdout if (m := re.search(r"serving\s+(http://\S+)", line)))
        r = bench(url + "/v1", "--num-prompts", 10, "--request-rate", 50, "--random-input-len", 30, "--random-output-len", 12, "--ignore-eos")
        assert r["completed"] == 10 and r["total_output_tokens"] == 120
        r = bench(url, "--num-prompts", 4, "--endpoint", "/v1/chat/completions", "--random-input-len", 30, "--random-output-len", 8)
        assert r["completed"] == 4 and 0 < r["total_output_tokens"] <= 32
        p = run("--url", url, "--num-prompts", 2, "--vocab-size", 100, "--random-input-len", 100000)
        assert p.returncode == 1 and "none of 2 requests succeeded" in p.stderr and "max-model-len" in p.stderr
        assert "2 http 400" in p.stdout
    finally:
        server.terminate()
        assert server.wait(30) == 0
