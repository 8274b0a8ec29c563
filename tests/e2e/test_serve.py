"""The server as its clients see it: the official openai client for what it can do, raw sockets for what no client should do.

Runs the embedded default model (SUPERNODE_TEST_MODEL names another). Times are generous, since the machine may be busy, except
where the point is that something does not wait."""
import contextlib, http.client, json, os, re, signal, socket, subprocess, tempfile, threading, time
from concurrent.futures import Future, ThreadPoolExecutor

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))
MODEL = os.environ.get("SUPERNODE_TEST_MODEL", os.path.join(ROOT, "models/tiny"))
HOST = "127.0.0.1"
SANITIZED = "san-" in BIN  # ten times slower: less work, and no figures


class Server:
    """A running `supernode serve`; port 0 asks for a free one and reads it from the lines it prints."""

    def __init__(self, *flags, model=MODEL, name="tiny", **popen):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([BIN, "serve", *([model] if model else []), "--port", "0", "--served-model-name", name, *flags],
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True, **popen)
        self.printed = ""
        for line in self.process.stdout:
            self.printed += line
            if line.strip().startswith("-d "):
                break
        found = re.search(r"serving\s+https?://127\.0\.0\.1:(\d+)", self.printed)
        assert found, (self.printed, self.log())
        self.port = int(found.group(1))
        self.client = openai.OpenAI(base_url=f"http://{HOST}:{self.port}/v1", api_key="none", max_retries=0, timeout=300)

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def stop(self, sig=signal.SIGTERM, timeout=30):
        self.process.send_signal(sig)
        code = self.process.wait(timeout)
        assert code == 0, (code, self.log())

    def post(self, path, body, **headers):
        """(status, headers, parsed body)"""
        c = http.client.HTTPConnection(HOST, self.port, timeout=300)
        c.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), headers)
        r = c.getresponse()
        text = r.read()
        c.close()
        return r.status, r.headers, json.loads(text)

    def chat(self, **body):
        return self.post("/v1/chat/completions", {"messages": HELLO, **body})

    def complete(self, **body):
        return self.post("/v1/completions", body)

    def complete_as(self, key, **body):
        return self.post("/v1/completions", body, Authorization=f"Bearer {key}")

    def socket(self, data=b"", timeout=60):
        s = socket.create_connection((HOST, self.port), timeout)
        s.sendall(data)
        return s


HELLO = [{"role": "user", "content": "Tell me a story about a fox."}]
LONG = {"ignore_eos": True, "temperature": 1}  # never stops by itself


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    if s.process.poll() is None:
        s.stop()
    assert s.process.returncode == 0, s.log()


def request_bytes(path, body, extra=""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_all(s):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            data += part
    return data


def read_until(s, what):
    data = b""
    while what not in data:
        part = s.recv(65536)
        assert part, data
        data += part
    return data


def room(server):
    return server.client.models.list().data[0].max_model_len


# --- answers ---------------------------------------------------------------------------------------------------


def test_printed_curl_line_works_in_bash(server):
    line = server.printed.split("try:\n")[1]
    p = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    events = [e for e in p.stdout.split("\n\n") if e]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[0][6:])["choices"][0]["delta"]["role"] == "assistant"


def test_start_prints_true_figures(server):
    info = json.loads(subprocess.run([BIN, "info", MODEL, "--json"], capture_output=True, check=True).stdout)
    first, memory, second, third = server.printed.splitlines()[:4]
    assert re.match(r"memory     [\d.]+ [MG]B for KV: \d+ tokens at [\d.]+ KB each; \d+ sequences, \d+ tokens the longest$", memory)
    assert first.split()[0] == "model" and info["architecture"] in first
    assert f"{info['parameters'] / 1e6:.1f} M parameters" in first and info["dtype"] in first
    assert second.split()[:2] == ["kernels", info["kernels"]]
    assert re.search(r"ready in \d+\.\d\d s", third)


def test_chat_whole_is_what_openai_parses_strictly(server):
    status, headers, body = server.chat(max_tokens=20, seed=1)
    assert status == 200 and headers["Content-Type"] == "application/json"
    r = ChatCompletion.model_validate(body, strict=True)
    assert r.id.startswith("chatcmpl-") and r.object == "chat.completion" and r.model == server.name
    assert abs(r.created - time.time()) < 600 and r.system_fingerprint.startswith("fp_")
    choice = r.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens and 1 <= r.usage.completion_tokens <= 20
    assert body["seed"] == 1


def test_chat_stream_is_the_whole_answer_in_parts(server):
    whole = server.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=40, seed=7)
    chunks = list(server.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=40, seed=7, stream=True,
                                                        stream_options={"include_usage": True}))
    for c in chunks:
        ChatCompletionChunk.model_validate(c.model_dump(exclude_unset=True), strict=True)
    assert len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].finish_reason is None
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(c.choices[0].finish_reason is None for c in chunks[:-2])
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5


def test_stream_framing(server):
    s = server.socket(request_bytes("/v1/chat/completions", {"messages": HELLO, "stream": True, "max_tokens": 3}, "Connection: close\r\n"))
    head, body = read_all(s).split(b"\r\n\r\n", 1)
    assert b"200 OK" in head and b"Content-Type: text/event-stream" in head and b"Transfer-Encoding: chunked" in head
    text = b""
    while body:
        size, body = body.split(b"\r\n", 1)
        text, body = text + body[:int(size, 16)], body[int(size, 16) + 2:]
    events = text.split(b"\n\n")
    assert events.pop() == b"" and events[-1] == b"data: [DONE]"
    assert all(e.startswith(b"data: {") and b"\n" not in e for e in events[:-1])


def test_http10_stream_ends_with_the_connection(server):
    body = json.dumps({"messages": HELLO, "stream": True, "max_tokens": 3}).encode()
    s = server.socket(b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    data = read_all(s)
    assert b"chunked" not in data and data.endswith(b"data: [DONE]\n\n")


def test_completion_equals_generate(server):
    prompt = "Once upon a time there was a king"
    flags = ["--max-tokens", "30", "--seed", "-5", "--temperature", "0.8", "--json", "--logprobs", "3"]
    told = json.loads(subprocess.run([BIN, "generate", MODEL, "--prompt", prompt, *flags], capture_output=True, check=True).stdout)
    status, _, body = server.complete(prompt=prompt, max_tokens=30, seed=-5, temperature=0.8, logprobs=3)
    r = Completion.model_validate(body, strict=True)
    assert status == 200 and r.object == "text_completion" and r.id.startswith("cmpl-")
    assert r.choices[0].text == told["text"] and r.choices[0].finish_reason == told["finish_reason"]
    usage = r.usage.model_dump(exclude_unset=True)
    assert usage.pop("prompt_tokens_details")["cached_tokens"] >= 0 and usage == told["usage"]
    lp = r.choices[0].logprobs
    assert lp.token_logprobs == pytest.approx([t["logprob"] for t in told["logprobs"]], rel=1e-6)
    assert len(lp.tokens) == len(lp.top_logprobs) == len(lp.text_offset) == r.usage.completion_tokens
    # the same prompt as ids (BOS first), as a list of one text, and streamed
    for same in (told["prompt_ids"], [told["prompt_ids"]], [prompt]):
        assert server.complete(prompt=same, max_tokens=30, seed=-5, temperature=0.8)[2]["choices"][0]["text"] == told["text"]
    parts = list(server.client.completions.create(model="tiny", prompt=prompt, max_tokens=30, seed=-5, temperature=0.8, stream=True))
    assert "".join(p.choices[0].text for p in parts) == told["text"] and parts[-1].choices[0].finish_reason == told["finish_reason"]


def test_default_lengths(server):
    assert server.complete(prompt="Once", ignore_eos=True)[2]["usage"]["completion_tokens"] == 16
    n = room(server)
    prompt_ids = [5] * (n - 3)
    r = server.complete(prompt=prompt_ids, ignore_eos=True)[2]
    assert r["usage"]["completion_tokens"] == 3 and r["choices"][0]["finish_reason"] == "length"


def test_chat_prompt_is_the_templates(server):
    messages = HELLO + [{"role": "assistant", "content": "A fox"}, {"role": "user", "content": [
        {"type": "text", "text": "Go"}, {"type": "text", "text": "on."}]}]
    plain = HELLO + [{"role": "assistant", "content": "A fox"}, {"role": "user", "content": "Go\non."}]
    prompt = subprocess.run([BIN, "template", MODEL], input=json.dumps({"messages": plain}), capture_output=True, text=True, check=True).stdout
    ids = json.loads(subprocess.run([BIN, "tokenize", MODEL, "--special"], input=prompt.replace("\n", " "), capture_output=True, text=True,
                                    check=True).stdout.splitlines()[0])
    usage = server.chat(messages=messages, max_tokens=1)[2]["usage"]
    assert abs(usage["prompt_tokens"] - len(ids)) <= 1  # the newline was made a space for the one-line tool


def test_added_tokens_in_a_users_message_are_text(server):
    eos = "<｜end▁of▁sentence｜>"
    count = lambda content: server.chat(messages=[{"role": "user", "content": content}], max_tokens=1)[2]["usage"]["prompt_tokens"]
    as_text = count(f"a {eos} b") - count("a  b")
    assert as_text > 3
    with contextlib.closing(Running("--trust-message-tokens")) as trusting:
        counted = lambda content: trusting.s.chat(messages=[{"role": "user", "content": content}], max_tokens=1)[2]["usage"]["prompt_tokens"]
        assert counted(f"a {eos} b") - counted("a  b") < as_text


class Running:
    def __init__(self, *flags, **kw):
        self.s = Server(*flags, **kw)

    def close(self):
        if self.s.process.poll() is None:
            self.s.stop()


def test_stop_strings_and_ids(server):
    base = dict(prompt="Once upon a time", max_tokens=60, temperature=0, ignore_eos=True)
    text = server.complete(**base)[2]["choices"][0]["text"]
    at = text.index(" ", 30)
    stop = text[at - 3:at + 4]  # lies across tokens
    cut = text[:text.index(stop)]
    for stops in (stop, ["never in there", stop]):
        r = server.complete(**base, stop=stops)[2]
        assert r["choices"][0]["text"] == cut and r["choices"][0]["finish_reason"] == "stop"
        assert r["usage"]["completion_tokens"] < 60
    parts = list(server.client.completions.create(model="tiny", stop=stop, stream=True, prompt="Once upon a time", max_tokens=60,
                                                  temperature=0, extra_body={"ignore_eos": True}))
    assert "".join(p.choices[0].text for p in parts) == cut
    later = server.complete(**base, stop=stop, min_tokens=40)[2]
    assert later["usage"]["completion_tokens"] >= 40
    ids = json.loads(subprocess.run([BIN, "generate", MODEL, "--prompt", "Once upon a time", "--max-tokens", "60", "--temperature", "0",
                                     "--ignore-eos", "--json"], capture_output=True, check=True).stdout)["ids"]
    r = server.complete(**base, stop_token_ids=[ids[9]])[2]
    assert r["usage"]["completion_tokens"] == ids.index(ids[9]) + 1 and r["choices"][0]["finish_reason"] == "stop"


def test_eos_counts_and_has_no_text(server):
    eos = json.loads(subprocess.run([BIN, "tokenize", MODEL, "--special"], input="<｜end▁of▁sentence｜>", capture_output=True, text=True,
                                    check=True).stdout)[0]
    r = server.complete(prompt="Once", max_tokens=9, logit_bias={str(eos): 100}, logprobs=0)[2]
    assert r["choices"][0]["text"] == "" and r["choices"][0]["finish_reason"] == "stop" and r["usage"]["completion_tokens"] == 1
    assert len(r["choices"][0]["logprobs"]["tokens"]) == 1
    r = server.complete(prompt="Once", max_tokens=9, logit_bias={str(eos): 100}, min_tokens=4)[2]
    assert r["usage"]["completion_tokens"] == 5


def test_chat_logprobs(server):
    greedy = dict(model="tiny", messages=HELLO, max_tokens=12, temperature=0, logprobs=True, extra_body={"repetition_penalty": 1})
    r = server.client.chat.completions.create(**greedy, top_logprobs=4)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    for t in content:
        assert len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token and t.top_logprobs[0].logprob == t.logprob
        assert [x.logprob for x in t.top_logprobs] == sorted((x.logprob for x in t.top_logprobs), reverse=True)
        assert bytes(t.bytes).decode(errors="replace") == t.token and t.logprob <= 0
    assert "".join(t.token for t in content).startswith(r.choices[0].message.content)
    plain = server.client.chat.completions.create(**greedy)
    assert all(t.top_logprobs == [] for t in plain.choices[0].logprobs.content)
    parts = list(server.client.chat.completions.create(**greedy, top_logprobs=4, stream=True))
    streamed = [t for p in parts if p.choices and p.choices[0].logprobs for t in p.choices[0].logprobs.content]
    assert streamed == content


def test_seeds(server):
    ask = lambda **kw: server.complete(prompt="Once upon a time", max_tokens=24, temperature=1, **kw)[2]
    a = ask()
    assert ask(seed=a["seed"])["choices"][0]["text"] == a["choices"][0]["text"]
    assert len({ask()["seed"] for _ in range(5)}) == 5
    assert ask(seed=-2**63)["choices"][0]["text"] == ask(seed=-2**63)["choices"][0]["text"] != ask(seed=2**63 - 1)["choices"][0]["text"]


def test_penalties_and_bias_reach_the_sampler(server):
    ask = lambda **kw: server.complete(prompt="Once upon a time", max_tokens=24, temperature=0, ignore_eos=True, **kw)[2]["choices"][0]["text"]
    plain = ask(repetition_penalty=1)
    assert len({plain, ask(repetition_penalty=3), ask(repetition_penalty=1, presence_penalty=2), ask(repetition_penalty=1, logit_bias={"70": 100})}) == 4
    assert ask(repetition_penalty=1, top_k=1) == plain


def test_generation_config_gives_the_defaults(server):
    config = os.path.join(MODEL, "generation_config.json")
    if not os.path.exists(config):
        pytest.skip("the model has no generation_config.json")
    g = json.load(open(config))
    named = {k: g[k] for k in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty") if k in g}
    ask = lambda **kw: server.complete(prompt="Once upon a time", max_tokens=24, seed=3, **kw)[2]["choices"][0]["text"]
    assert ask() == ask(**named)


def test_models_health_version(server):
    models = server.client.models.list().data
    assert [m.id for m in models] == ["tiny"] and models[0].object == "model"
    Model.model_validate(models[0].model_dump(exclude_unset=True), strict=True)
    assert server.client.models.retrieve("tiny").max_model_len == models[0].max_model_len > 0
    with pytest.raises(openai.NotFoundError) as e:
        server.client.models.retrieve("gpt-4")
    assert e.value.code == "model_not_found"
    for path in ("/health", "/version"):
        c = http.client.HTTPConnection(HOST, server.port)
        c.request("GET", path)
        r = c.getresponse()
        assert r.status == 200 and json.loads(r.read())
        c.request("HEAD", path)
        r = c.getresponse()
        assert r.status == 200 and r.read() == b""
        c.request("OPTIONS", path)
        r = c.getresponse()
        assert r.status == 204 and r.headers["Allow"] == "GET, HEAD, OPTIONS" and r.read() == b""


# --- refusals --------------------------------------------------------------------------------------------------


def test_model_that_is_not_served(server):
    with pytest.raises(openai.NotFoundError) as e:
        server.client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert e.value.code == "model_not_found" and e.value.param == "model"
    assert e.value.body["message"] == "model: 'gpt-4' is not served here; 'tiny' is"


REFUSED = [
    ({"max_tokens": 1 << 20}, "max_tokens", r"max_tokens: 1048576 with a prompt of \d+ tokens exceeds max-model-len \d+"),
    ({"max_completion_tokens": 1 << 20}, "max_completion_tokens", r"max_completion_tokens: 1048576 with a prompt of"),
    ({"temperature": "hot"}, "temperature", "temperature: found a string, expected a number"),
    ({"n": 129}, "n", "n: found 129, expected 1 to 128"),
    ({"messages": []}, "messages", "messages: found an empty list"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0]",
     r"messages\[0\].content\[0\]: found type image_url, expected a part of type text with a text"),
    ({"messages": [{"role": "user", "content": "word " * 2000000}]}, "messages", r"messages: a prompt of \d+ bytes cannot fit max-model-len"),
    ({"messages": [{"role": "nobody", "content": "x"}]}, "messages", "nobody"),  # the template's own words
    ({"response_format": {"type": "json_object"}}, "response_format", "response_format: found type 'json_object', only 'text' is supported"),
]


@pytest.mark.parametrize("body,param,message", REFUSED, ids=[r[1] for r in REFUSED])
def test_refused_fields(server, body, param, message):
    status, _, r = server.chat(**body)
    assert status == 400 and r["error"]["type"] == "invalid_request_error" and r["error"]["param"] == param
    assert re.search(message, r["error"]["message"]), r
    assert set(r["error"]) == {"message", "type", "param", "code"}


def test_bad_json_says_where(server):
    status, _, r = server.post("/v1/chat/completions", '{"messages": [\n  {"role": "user",, }]}')
    assert status == 400 and "request body: line 2 column" in r["error"]["message"] and r["error"]["param"] is None
    for body in (b'{"messages": "\xff\xfe"}', b"[" * 100000, b'{"a":' * 100000, b"", b"null", b"[]", b'{"prompt":1e999}', b'{"seed":123456789012345678901234567890}',
                 b'{"messages":[],"messages":[]}', b'{"messages":[{"role":"user","content":"\\ud800"}]}'):
        status, _, r = server.post("/v1/chat/completions", body)
        assert status == 400 and r["error"]["message"], body
    assert server.chat(max_tokens=1)[0] == 200


def test_unknown_fields_are_ignored_and_logged(server):
    time.sleep(1.1)  # such lines are limited to one a second
    status, _, _ = server.chat(max_tokens=1, frobnicate=3, user="me")
    assert status == 200
    assert re.search(r"serve: ignored unknown fields: id chatcmpl-\w+ fields frobnicate", server.log(), re.M)


def test_wrong_paths_and_methods(server):
    for method, path, want in (("GET", "/nope", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/health", 405), ("DELETE", "/v1/models", 405),
                               ("BREW", "/health", 405), ("GET", "/v1/models/a%2Fb", 404), ("GET", "/%00", 404), ("GET", "//", 404)):
        c = http.client.HTTPConnection(HOST, server.port, timeout=60)
        c.request(method, path)
        r = c.getresponse()
        assert r.status == want, (method, path)
        assert r.headers["Content-Type"] == "application/json" and json.loads(r.read())["error"]["message"]
        assert want != 405 or r.headers["Allow"]


# --- hostile clients -------------------------------------------------------------------------------------------


def test_huge_content_length_is_refused_at_once(server):
    begun = time.time()
    s = server.socket(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{")
    data = read_all(s)
    assert data.startswith(b"HTTP/1.1 413 ") and time.time() - begun < 4
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["message"].startswith("request body: larger than")


def test_body_too_large_is_answered_though_the_client_is_still_sending(server):
    with pytest.raises(openai.APIStatusError) as e:
        server.client.completions.create(model="tiny", prompt="x" * (40 << 20))
    assert e.value.status_code == 413


def test_garbage_is_refused(server):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9.9\r\n\r\n", b"\r\n\r\n\r\n\r\n" * 50,
                 b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n", b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5x\r\n\r\nhello",
                 b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
        with contextlib.suppress(ConnectionError):
            s = server.socket(timeout=10)
            s.sendall(data)
            answer = s.recv(65536)
            s.close()
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), (data[:40], answer[:200])
            assert b"application/json" in answer and b"<HTML>" not in answer
    assert server.chat(max_tokens=1)[0] == 200


def test_slow_request_line_and_chunked_body(server):
    s = server.socket()
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    for b in b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n":
        s.sendall(bytes([b]))
    for b in body:
        s.sendall(b"1\r\n" + bytes([b]) + b"\r\n")
    s.sendall(b"0\r\n\r\n")
    assert b"text_completion" in read_all(s)


def test_pipelined_requests_are_answered_in_order(server):
    first = request_bytes("/v1/completions", {"prompt": "Once", "max_tokens": 8, "stream": True})
    second = request_bytes("/v1/completions", {"prompt": "Once", "max_tokens": 2})
    third = b"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n"
    s = server.socket(first + second + third)
    data = read_all(s)
    assert data.count(b"HTTP/1.1 200 OK") == 3 and data.index(b"[DONE]") < data.index(b'"usage"') < data.index(b'"version"')


def test_expect_100_continue(server):
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    s = server.socket(f"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    assert read_until(s, b"\r\n\r\n").startswith(b"HTTP/1.1 100 Continue")
    s.sendall(body)
    assert b"text_completion" in read_all(s)


# --- time ------------------------------------------------------------------------------------------------------


def health_ms(server):
    begun = time.perf_counter()
    c = http.client.HTTPConnection(HOST, server.port, timeout=60)
    c.request("GET", "/health")
    assert c.getresponse().status == 200
    c.close()
    return (time.perf_counter() - begun) * 1e3


def test_health_answers_during_a_long_prefill(server):
    prompt = long_prompt(server)
    done = []
    t = threading.Thread(target=lambda: done.append(server.complete(prompt=prompt, max_tokens=1)[0]))
    t.start()
    times = [health_ms(server)]
    while t.is_alive():
        times.append(health_ms(server))
        time.sleep(0.005)
    t.join()
    print(f"health during a prefill of {len(prompt)} tokens: {len(times)} answers, slowest {max(times):.1f} ms")
    assert done == [200] and sorted(times)[len(times) * 9 // 10] < 500


def test_long_text_is_refused_without_stalling_health(server):
    """Most of 32 MiB of white space, which size alone cannot refuse."""
    done = []
    t = threading.Thread(target=lambda: done.append(server.complete(prompt=" " * (31 << 20))[0]))
    t.start()
    times = [health_ms(server)]
    while t.is_alive():
        times.append(health_ms(server))
        time.sleep(0.01)
    t.join()
    print(f"health while 31 MiB are read and tokenised: slowest {max(times):.1f} ms")
    assert done == [400] and sorted(times)[len(times) * 9 // 10] < 1000


def long_answer(server):
    """A request that takes a while, and how long (s)."""
    body = {"prompt": [5], "max_tokens": 150 if SANITIZED else 800, **LONG}
    begun = time.time()
    r = server.complete(**body)[2]
    assert r["usage"]["completion_tokens"] == body["max_tokens"]
    return body, time.time() - begun


def long_prompt(server):
    n = min(room(server) - 2, 1200 if SANITIZED else 3000)
    return [5 + i % 50 for i in range(n)]


def idle(server):
    """Waits until nothing runs: a request is answered at once."""
    assert server.complete(prompt=[5], max_tokens=1)[0] == 200


def test_a_client_that_leaves_frees_the_engine(server):
    body, full = long_answer(server)
    for stream in (True, False):
        s = server.socket(request_bytes("/v1/completions", {**body, "stream": stream}))
        if stream:
            read_until(s, b"data: ")
        else:
            time.sleep(min(0.2, full / 10))
        begun = time.time()
        s.close()
        idle(server)
        waited = time.time() - begun
        print(f"stream {stream}: a whole answer takes {full:.2f} s; after a hang-up the next client waited {waited * 1e3:.0f} ms")
        assert waited < full / 3 + 0.3


def test_clients_that_leave_while_waiting_cost_nothing(server):
    body, full = long_answer(server)
    running = server.socket(request_bytes("/v1/completions", {**body, "stream": True}))
    read_until(running, b"data: ")
    waiting = [server.socket(request_bytes("/v1/completions", body)) for _ in range(5)]
    time.sleep(0.1)
    for s in waiting + [running]:
        s.close()
    begun = time.time()
    idle(server)
    assert time.time() - begun < full


def test_a_client_that_leaves_during_prefill(server):
    prompt = long_prompt(server)
    begun = time.time()
    assert server.complete(prompt=prompt, max_tokens=1)[0] == 200
    full = time.time() - begun
    sockets = [server.socket(request_bytes("/v1/completions", {"prompt": prompt, "max_tokens": 1, "stream": True})) for _ in range(4)]
    time.sleep(full / 8)
    for s in sockets:
        s.close()
    begun = time.time()
    idle(server)
    print(f"a prefill takes {full:.2f} s; after four clients left theirs the next waited {time.time() - begun:.2f} s")
    assert time.time() - begun < 2 * full + 0.3


def test_a_client_that_does_not_read_is_dropped(server):
    """Its answers must not pile up; another client is served meanwhile."""
    n = room(server)
    if n < 4096:
        pytest.skip("the model's context is too short to fill the buffers")
    rss = lambda: int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.process.pid}/status").read()).group(1)) >> 10
    before = rss()
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(120)
    s.connect((HOST, server.port))
    s.sendall(request_bytes("/v1/chat/completions", {"messages": HELLO, "stream": True, "logprobs": True, "top_logprobs": 20, "max_tokens": n - 100, **LONG}))
    end = time.time() + 60
    while "client does not read" not in server.log() and time.time() < end:
        idle(server)
        time.sleep(0.05)
    print(f"RSS {before} MiB before, {rss()} MiB after a client that never read")
    assert rss() - before < 64
    assert "serve: client does not read, dropped: id chatcmpl-" in server.log()
    data = read_all(s)
    assert b"[DONE]" not in data


# --- start and stop --------------------------------------------------------------------------------------------


def test_port_in_use_is_a_sentence(server):
    p = subprocess.run([BIN, "serve", MODEL, "--port", str(server.port)], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and p.stdout == ""
    assert p.stderr == f"supernode: serve: 127.0.0.1 port {server.port} is in use; choose another with --port\n"


def test_wrong_command_lines():
    for args, code, text in ((["--prot", "80"], 2, "serve: unknown flag --prot; did you mean --port?"), (["--port", "99999"], 2, "--port: found 99999"),
                             (["/nowhere"], 1, "/nowhere"), (["--host", "not.a.host.invalid"], 1, "--host not.a.host.invalid")):
        p = subprocess.run([BIN, "serve", *args], capture_output=True, text=True, timeout=60)
        assert p.returncode == code and text in p.stderr and p.stderr.count("\n") == 1, p.stderr
    p = subprocess.run([BIN, "serve", "--help"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and "default 8000" in p.stdout and "example:" in p.stdout


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(sig):
    s = Server()
    keep = s.socket(b"GET /health HTTP/1.1\r\n\r\n")
    read_until(keep, b"ok")
    begun = time.time()
    s.stop(sig)
    assert time.time() - begun < 3
    with pytest.raises(ConnectionRefusedError):
        s.socket()


def test_sigterm_lets_the_running_answer_finish():
    s = Server()
    running = s.socket(request_bytes("/v1/completions", {"prompt": [5], "max_tokens": 50, "stream": True, **LONG}))
    read_until(running, b"data: ")
    waiting = s.socket(request_bytes("/v1/completions", {"prompt": [5], "max_tokens": 50, **LONG}))
    s.process.send_signal(signal.SIGTERM)
    rest = read_all(running)
    assert b'"finish_reason":"length"' in rest and rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), rest[-500:]
    told = read_all(waiting)
    assert b"200 OK" in told or (b"503" in told and b"shutting down" in told)
    assert s.process.wait(30) == 0


def test_sigterm_ends_an_answer_that_takes_too_long():
    s = Server("--threads", "1", "--drain-timeout", "5")
    body = {"prompt": [5], "max_tokens": room(s) - 1, "stream": True, "logprobs": 20, **LONG}
    sockets = [s.socket(request_bytes("/v1/completions", body)) for _ in range(8)]
    read_until(sockets[0], b"data: ")
    with ThreadPoolExecutor(len(sockets)) as pool:  # who does not read gets no last word
        answers = [pool.submit(read_all, sock) for sock in sockets]
        begun = time.time()
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(30) == 0
        assert time.time() - begun < 12
    for told in map(Future.result, answers):
        assert b"[DONE]" in told or b"shutting down" in told, told[-300:]


def test_start_to_first_token_under_300_ms():
    """From exec to the first SSE token of a short chat, by a client that polls the port. Tried up to ten times, since others may
    use the machine."""
    port = free_port()
    body = request_bytes("/v1/chat/completions", {"messages": HELLO, "stream": True, "max_tokens": 4})
    bar = 5000 if SANITIZED else 300
    times = []
    while len(times) < 10 and min(times, default=bar) >= bar:
        begun = time.perf_counter()
        p = subprocess.Popen([BIN, "serve", MODEL, "--port", str(port)], stdout=subprocess.DEVNULL)
        while True:
            try:
                s = socket.create_connection((HOST, port), 60)
                break
            except ConnectionRefusedError:
                time.sleep(0.001)
        s.sendall(body)
        data = read_until(s, b'"content":"')
        while data.count(b'"content":"') < 2:  # the first chunk has the role and no text
            data += s.recv(65536)
        times.append((time.perf_counter() - begun) * 1e3)
        s.close()
        p.terminate()
        assert p.wait(30) == 0
    print("start to first token, ms:", ", ".join(f"{t:.0f}" for t in times))
    if min(times) >= bar and os.getloadavg()[0] > 2 * os.cpu_count():
        pytest.skip(f"the machine is too busy to tell: {min(times):.0f} ms at load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    assert min(times) < bar


def free_port():
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]
