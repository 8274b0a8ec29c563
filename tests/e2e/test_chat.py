# SPDX-License-Identifier: Apache-2.0
"""`supernode chat`: through pipes, where its words can be compared with the API's, and on a pseudo-terminal, where Ctrl-C matters."""
import http.client, http.server, json, os, pty, re, select, signal, subprocess, threading, time

import pytest

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))


@pytest.fixture(scope="module")
def port():
    p = subprocess.Popen([BIN, "serve", os.path.join(ROOT, "models/tiny"), "--port", "0", "--served-model-name", "tiny"], stdout=subprocess.PIPE, text=True)
    yield next(int(m.group(1)) for line in p.stdout if (m := re.search(r"serving\s+http://127\.0\.0\.1:(\d+)", line)))
    p.terminate()
    assert p.wait(60) == 0


def answer(port, messages, **more):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/chat/completions", json.dumps({"messages": messages, **more}))
    return json.loads(c.getresponse().read())["choices"][0]["message"]["content"]


def chat(port, text, *flags):
    return subprocess.run([BIN, "chat", "--url", f"http://127.0.0.1:{port}", *flags], input=text, capture_output=True, text=True, timeout=120)


class Fake(http.server.BaseHTTPRequestHandler):
    """Streams what the test left in Fake.text, then goes on slowly until the client leaves if Fake.endless."""
    protocol_version = "HTTP/1.1"
    text, endless, status, asked, left = ["Hello"], False, 200, [], threading.Event()

    def log_message(self, *args):
        pass

    def send(self, status, data, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send(200, b'{"data":[{"id":"fake"}]}')

    def do_POST(self):
        Fake.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if Fake.status != 200:
            return self.send(Fake.status, json.dumps({"error": {"message": "the house is full"}}).encode())
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for t in Fake.text:
                self.event({"choices": [{"index": 0, "delta": {"content": t}}]})
            while Fake.endless:
                time.sleep(0.02)
                self.event({"choices": [{"index": 0, "delta": {"content": "on and "}}]})
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            Fake.left.set()
            self.close_connection = True

    def event(self, value):
        data = b"data: " + (value if isinstance(value, str) else json.dumps(value)).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


@pytest.fixture
def fake():
    Fake.text, Fake.endless, Fake.status, Fake.asked, Fake.left = ["Hello"], False, 200, [], threading.Event()
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    s.daemon_threads = True
    s.handle_error = lambda *a: None
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s.server_address[1]
    s.shutdown()
    s.server_close()


class Terminal:
    def __init__(self, port, *flags):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(BIN, [BIN, "chat", "--url", f"http://127.0.0.1:{port}", *flags])
        self.out = b""

    def until(self, what, timeout=30):
        """Reads until what comes after all that was waited for before; returns what stood before it."""
        deadline = time.time() + timeout
        while what not in self.out:
            assert select.select([self.fd], [], [], max(0, deadline - time.time()))[0], self.out
            self.out += os.read(self.fd, 65536)
        before, self.out = self.out.split(what, 1)
        return before.decode(errors="replace")

    def keys(self, data):
        os.write(self.fd, data)

    def end(self):
        """The exit code, once it ended by itself."""
        try:
            while select.select([self.fd], [], [], 10)[0]:
                if not os.read(self.fd, 65536):
                    break
        except OSError:
            pass
        for _ in range(200):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it does not end")


PROMPT = b"\x1b[1m>\x1b[0m "

# --- pipes -----------------------------------------------------------------------------------------------------


def test_two_turns_are_those_of_the_api(port):
    flags = {"seed": 5, "max_tokens": 40, "temperature": 0.7, "top_p": 0.9}
    p = chat(port, "Tell me a story about a fox.\n\nAnd then?\n", "--seed", "5", "--max-tokens", "40", "--temperature", "0.7", "--top-p", "0.9")
    messages = [{"role": "user", "content": "Tell me a story about a fox."}]
    first = answer(port, messages, **flags)
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    assert p.returncode == 0 and p.stderr == ""
    assert p.stdout == first + "\n" + answer(port, messages, **flags) + "\n"


def test_system_and_reset(fake):
    p = chat(fake, "one\n/system Be brief.\ntwo\n/reset\nthree\n/system\nfour\n", "fake", "--system", "Be long.")
    assert p.returncode == 0 and p.stdout == "Hello\n" * 4
    said = [[(m["role"][0], m["content"]) for m in b["messages"]] for b in Fake.asked]
    assert said == [[("s", "Be long."), ("u", "one")], [("s", "Be brief."), ("u", "one"), ("a", "Hello"), ("u", "two")],
                    [("s", "Be brief."), ("u", "three")], [("u", "three"), ("a", "Hello"), ("u", "four")]]
    assert all(set(b) == {"model", "messages", "stream", "stream_options"} and b["model"] == "fake" for b in Fake.asked)


def test_failures_are_sentences(fake):
    Fake.status = 503
    p = chat(fake, "one\n/nonsense\n")
    assert p.returncode == 1 and p.stdout == ""
    assert p.stderr == "supernode: chat: the server answers 503: the house is full\nsupernode: chat: unknown command /nonsense; /help lists them\n"
    assert chat(fake, "/help\n").stdout.count("/") == 3
    p = chat(9, "one\n")
    assert p.returncode == 1 and p.stderr == "supernode: http://127.0.0.1:9: nothing answers there; start a server with: supernode serve\n"
    assert chat(fake, "one\n", "--prot").returncode == 2


def test_a_broken_answer_is_said_and_its_question_forgotten(fake):
    Fake.text = []
    assert chat(fake, "one\ntwo\n").returncode == 0
    assert [len(b["messages"]) for b in Fake.asked] == [1, 1]
    p = subprocess.run([BIN, "chat", "--url", f"http://127.0.0.1:{fake}"], input=b"\xff\xfe\n", capture_output=True, timeout=60)
    assert p.returncode == 1 and p.stderr == b"supernode: chat: the line is not UTF-8\n"


def test_pipes_get_the_text_as_it_is_and_terminals_what_cannot_harm(fake):
    Fake.text = ["a\x1b[31mb\x07\x9b2Jc\té", "\n"]
    assert chat(fake, "one\n").stdout == "a\x1b[31mb\x07\x9b2Jc\té\n"
    t = Terminal(fake)
    t.until(PROMPT)
    t.keys(b"one\n")
    shown = t.until(b"\x1b[2m[")
    assert shown.replace("\r", "") == "one\na[31mb2Jc\té\n"
    t.keys(b"\x04")
    assert t.end() == 0


# --- a terminal ------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_answer_and_then_leaves(fake):
    Fake.endless = True
    t = Terminal(fake)
    assert f"fake at http://127.0.0.1:{fake}" in t.until(PROMPT)
    t.keys(b"Go on.\n")
    t.until(b"on and on and ")
    t.keys(b"\x03")
    assert "stopped]" in t.until(PROMPT)
    assert Fake.left.wait(5), "the server was not told"
    Fake.endless = False
    t.keys(b"And now?\n")
    assert "Hello" in t.until(PROMPT)
    roles = [m["role"] for m in Fake.asked[1]["messages"]]
    assert roles == ["user", "assistant", "user"] and Fake.asked[1]["messages"][1]["content"].startswith("Helloon and on and")
    t.keys(b"\x03")
    assert t.end() == 0


def test_ctrl_c_before_the_first_word(fake):
    Fake.text, Fake.endless = [], True
    Fake.event, real = lambda self, value: self.wfile.write(b"9\r\n: nothing\r\n"), Fake.event
    try:
        t = Terminal(fake)
        t.until(PROMPT)
        t.keys(b"Go on.\n")
        time.sleep(0.5)
        t.keys(b"\x03")
        assert "[0 tokens, stopped]" in t.until(PROMPT)
        t.keys(b"\x04")
        assert t.end() == 0
    finally:
        Fake.event = real


def test_our_server_in_a_terminal(port):
    t = Terminal(port, "--max-tokens", "20", "--seed", "1")
    t.until(PROMPT)
    t.keys(b"Tell me a story about a fox.\n")
    shown = t.until(PROMPT)
    assert answer(port, [{"role": "user", "content": "Tell me a story about a fox."}], max_tokens=20, seed=1) in shown.replace("\r", "")
    assert re.search(r"\x1b\[2m\[20 tokens, \d+ tokens/s\]", shown)
    t.keys(b"\x04")
    assert t.end() == 0
