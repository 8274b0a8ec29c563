# SPDX-License-Identifier: Apache-2.0
"""The page at / in a headless Chromium: what a person does with a keyboard, against our server; and what the server might say, put into
the browser's mouth (DevTools' Fetch domain). Screenshots go to the build folder, to be looked at."""
import base64, http.client, json, os, re, subprocess, time

import pytest

import browser

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))
SHOTS = os.path.dirname(BIN)
needs_browser = pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium: run tools/install-deps --tests")


@pytest.fixture(scope="module")
def server():
    p = subprocess.Popen([BIN, "serve", os.path.join(ROOT, "models/tiny"), "--port", "0", "--served-model-name", "tiny"], stdout=subprocess.PIPE, text=True)
    port = next(int(m.group(1)) for line in p.stdout if (m := re.search(r"serving\s+http://127\.0\.0\.1:(\d+)", line)))
    yield port
    p.terminate()
    assert p.wait(60) == 0


@pytest.fixture(scope="module")
def chromium():
    b = browser.Browser()
    yield b
    b.close()


@pytest.fixture
def page(server, chromium):
    chromium.on_event = None
    chromium.call("Fetch.disable")
    chromium.scheme("light")
    chromium.size(1280, 860)
    chromium.open(f"http://127.0.0.1:{server}/health")
    chromium.js("sessionStorage.clear()")
    chromium.events.clear()
    chromium.open(f"http://127.0.0.1:{server}/")
    chromium.wait("document.getElementById('model').textContent === 'tiny'")
    return chromium


def get(port, path, method="GET", **headers):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request(method, path, headers=headers)
    r = c.getresponse()
    return r.status, r.headers, r.read()


def post(port, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/chat/completions", json.dumps(body))
    r = c.getresponse()
    assert r.status == 200
    return json.loads(r.read())


def text_of(b, selector):
    return b.js(f"Array.from(document.querySelectorAll({json.dumps(selector)}), e => e.textContent)")


def set_field(b, name, value):
    b.js(f"document.getElementById({json.dumps(name)}).focus(); document.getElementById({json.dumps(name)}).select()")
    b.type(str(value))
    b.js("document.getElementById('input').focus()")


def never_ends(b):
    """Answers go on to max_tokens, whatever the model says."""
    b.js("window.real = fetch; window.fetch = (u, o) => real(u, o?.body ? {...o, body: o.body.slice(0, -1) + ',\"ignore_eos\":true}'} : o); 0")


def finished(b, n):
    b.wait(f"document.querySelectorAll('.assistant .about, .assistant .error').length === {n} && !document.querySelector('.streaming')", 60)


# --- the files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path,kind,name", [("/", "text/html", "page.html"), ("/page.css", "text/css", "page.css"), ("/page.js", "text/javascript", "page.js")])
def test_files_are_what_the_source_has(server, path, kind, name):
    status, headers, body = get(server, path)
    with open(os.path.join(ROOT, "src/serve/page", name), "rb") as f:
        assert status == 200 and body == f.read() and headers["Content-Type"] == kind + "; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-cache"
    again = get(server, path, **{"If-None-Match": headers["ETag"]})
    assert again[0] == 304 and again[2] == b"" and get(server, path, **{"If-None-Match": '"other"'})[0] == 200
    assert get(server, path, "HEAD")[::2] == (200, b"") and get(server, path, "POST")[0] == 405


def test_nothing_comes_from_elsewhere_and_nothing_is_parsed_as_html():
    for name in ("page.html", "page.css", "page.js"):
        with open(os.path.join(ROOT, "src/serve/page", name)) as f:
            text = f.read().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(src|href|url\(|fetch\(|from|import)\W*(https?:)?//", text) and "@import" not in text, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon\w+=|style=", text), name


# --- a conversation --------------------------------------------------------------------------------------------


@needs_browser
def test_a_conversation_streams_and_is_what_the_api_answers(server, page):
    page.call("Network.enable")  # an event for every chunk: only here
    page.js("window.old = 1")
    page.call("Page.reload")
    page.wait("window.old === undefined && document.readyState === 'complete' && model")
    set_field(page, "seed", "9007199254740993")  # 2^53 + 1: not a JavaScript number
    set_field(page, "temperature", "0.7")
    set_field(page, "max_tokens", "400")
    never_ends(page)
    set_field(page, "system", "You are a fox.")
    page.js("window.lengths = new Set(); window.speeds = new Set(); new MutationObserver(() => {"
            "lengths.add(document.querySelector('.assistant p')?.textContent.length); speeds.add(document.getElementById('speed').textContent)})"
            ".observe(document.getElementById('chat'), {subtree: true, childList: true, characterData: true})")
    page.type("Tell me a story about a fox.")
    page.press("Enter", shift=True)
    page.type("A long one.")
    page.press("Enter")
    finished(page, 1)
    question = "Tell me a story about a fox.\nA long one."
    assert text_of(page, ".user p") == [question]
    messages = [{"role": "system", "content": "You are a fox."}, {"role": "user", "content": question}]
    sampling = {"seed": 9007199254740993, "temperature": 0.7, "max_tokens": 400, "ignore_eos": True}
    r = post(server, {"messages": messages, **sampling})
    answer = text_of(page, ".assistant p")
    assert answer[0] == r["choices"][0]["message"]["content"]
    assert answer[1].startswith(f"{r['usage']['completion_tokens']} tokens") and "seed 9007199254740993" in answer[1] and "tokens/s" in answer[1]
    assert page.js("lengths.size") > 3, "it did not stream"
    assert page.js("Array.from(speeds).some(s => /^[0-9.]+ tokens.s$/.test(s)) && speeds.has('')")
    # the second turn sends the first
    page.type("And then?")
    page.press("Enter")
    finished(page, 2)
    messages += [{"role": "assistant", "content": answer[0]}, {"role": "user", "content": "And then?"}]
    r = post(server, {"messages": messages, **sampling})
    assert text_of(page, ".assistant p:first-child")[1] == r["choices"][0]["message"]["content"]
    page.screenshot(os.path.join(SHOTS, "page-light.png"))
    page.scheme("dark")
    page.screenshot(os.path.join(SHOTS, "page-dark.png"))
    page.size(420, 800)
    page.wait("document.getElementById('settings').hidden")
    page.screenshot(os.path.join(SHOTS, "page-narrow.png"))
    assert page.js("document.documentElement.scrollWidth") <= 420
    bad = [e for e in page.events if e["method"] == "Runtime.exceptionThrown" or
           e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] in ("error", "warning") and "favicon.ico" not in e["params"]["entry"].get("url", "")]
    assert bad == []
    urls = {e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"}
    page.call("Network.disable")
    assert len(urls) > 3 and all(u.startswith((f"http://127.0.0.1:{server}/", "data:")) for u in urls), urls


@needs_browser
@pytest.mark.parametrize("how", ["Escape", "the button", "keyboard on the button"])
def test_stop_keeps_what_was_said_and_frees_the_server(server, page, how):
    set_field(page, "seed", "4")
    set_field(page, "max_tokens", "8000")
    page.type("Tell me a story about a fox.")
    never_ends(page)
    page.press("Enter")
    page.wait("document.querySelector('.assistant p').textContent.length > 30")
    if how == "Escape":
        page.press("Escape")
    elif how == "the button":
        page.click("#stop")
    else:
        page.press("Tab")
        assert page.js("document.activeElement.id") == "stop"
        page.press(" ")
    finished(page, 1)
    said, about = text_of(page, ".assistant p")
    assert len(said) > 30 and "stopped" in about
    assert page.js("document.getElementById('stop').hidden && document.activeElement.id === 'input'")
    begun = time.time()
    while b"\nsupernode_num_requests_running{" in (m := get(server, "/metrics")[2]) and not re.search(rb"num_requests_running\{.*\} 0\n", m):
        assert time.time() - begun < 5, m
    page.type("And?")
    page.press("Enter")
    page.press("Escape")
    page.wait("!document.querySelector('.streaming')")
    assert len(text_of(page, ".user p")) == 2


@needs_browser
def test_examples_and_a_new_chat(page):
    set_field(page, "max_tokens", "5")
    page.click("#examples button")
    finished(page, 1)
    assert "cut at max tokens" in text_of(page, ".about")[0]
    page.click("#new")
    assert page.js("document.querySelectorAll('#log li').length === 0 && !document.getElementById('empty').hidden && messages.length === 0")
    page.click("#toggle")
    assert page.js("document.getElementById('settings').hidden && document.getElementById('toggle').getAttribute('aria-expanded') === 'false'")


# --- what a server might say -----------------------------------------------------------------------------------


def answer_with(b, answers):
    """answers: path -> (status, body)"""
    b.call("Fetch.enable", patterns=[{"urlPattern": "*" + path} for path in answers])

    def on_event(m):
        if m["method"] != "Fetch.requestPaused":
            return
        path = next(p for p in answers if m["params"]["request"]["url"].endswith(p))
        status, body = answers[path]() if callable(answers[path]) else answers[path]
        b.send("Fetch.fulfillRequest", requestId=m["params"]["requestId"], responseCode=status, body=base64.b64encode(body.encode()).decode())

    b.on_event = on_event
    b.js("window.old = 1")
    b.call("Page.reload")  # what is loaded already may have a way around the interception
    b.wait("window.old === undefined && document.readyState === 'complete' && model")


def sse(*chunks):
    return "".join(f"data: {c if isinstance(c, str) else json.dumps(c)}\n\n" for c in chunks)


def delta(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


@needs_browser
def test_text_that_looks_like_html_stays_text(page):
    evil = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>&amp;\u202e"
    answer_with(page, {"/v1/chat/completions": (200, sse(delta(evil[:9]), delta(evil[9:]), "[DONE]"))})
    page.type(evil)
    page.press("Enter")
    finished(page, 1)
    assert text_of(page, ".user p") == [evil] and text_of(page, ".assistant p")[0] == evil
    assert page.js("document.querySelectorAll('#log img, #log script').length === 0 && window.hacked === undefined")


@needs_browser
@pytest.mark.parametrize("status,body,said", [
    (503, json.dumps({"error": {"message": "too many <b>requests</b>"}}), "503: too many <b>requests</b>"), (502, "<html>", "502: Bad Gateway"),
    (200, sse(delta("Once"), {"error": {"message": "the engine failed"}}, "[DONE]"), "the engine failed"), (200, sse(delta("Once")), "the answer broke off")])
def test_errors_are_said_and_the_question_can_be_asked_again(page, status, body, said):
    answer_with(page, {"/v1/chat/completions": (status, body)})
    page.type("Hello")
    page.press("Enter")
    finished(page, 2 if "Once" in body else 1)
    assert text_of(page, ".error") == [said] and page.js("document.querySelector('.error').getAttribute('role')") == "alert"
    if "Once" not in body:
        assert page.js("document.getElementById('input').value === 'Hello' && messages.length === 0")


@needs_browser
def test_a_key_is_asked_for_and_sent(page):
    keys = []
    answer_with(page, {"/v1/chat/completions": (401, json.dumps({"error": {"message": "no key"}}))})
    page.click("#toggle")
    page.js("document.getElementById('input').focus()")
    page.type("Hello")
    page.press("Enter")
    finished(page, 1)
    assert page.js("!document.getElementById('settings').hidden && document.activeElement.id === 'key'")
    page.type("sk-1")
    page.js("document.getElementById('input').focus()")
    page.press("Enter")
    finished(page, 2)
    for e in page.events:
        if e["method"] == "Fetch.requestPaused":
            keys.append({k.lower(): v for k, v in e["params"]["request"]["headers"].items()}.get("authorization"))
    assert keys == [None, "Bearer sk-1"]


@needs_browser
def test_the_strip_shows_what_metrics_say(page):
    looks = []

    def metrics():
        looks.append(1)
        n = len(looks)
        return 200, (f'# TYPE supernode_num_requests_running gauge\nsupernode_num_requests_running{{model_name="a}} 9"}} {n}\n'
                     f'supernode_num_requests_waiting{{model_name="x"}} 2\nsupernode_num_requests_waiting{{model_name="y"}} 5\n'
                     f'supernode_kv_cache_usage_perc 0.425\nsupernode_inter_token_latency_seconds_sum {0.0125 * 100 * n}\n'
                     f'supernode_inter_token_latency_seconds_bucket{{le="+Inf"}} 1e9\nsupernode_inter_token_latency_seconds_count {100 * n}\nother 4\n')

    answer_with(page, {"/metrics": metrics})
    page.wait("document.getElementById('tpot').textContent === '12.5 ms'")
    assert text_of(page, "#waiting") == ["7"] and text_of(page, "#kv") == ["43 %"] and int(text_of(page, "#running")[0]) in (len(looks) - 1, len(looks))
    assert page.js("!document.getElementById('strip').hidden && document.getElementById('kv-meter').value") == 42.5
    page.screenshot(os.path.join(SHOTS, "page-strip.png"))
    health = {"status": 503}
    answer_with(page, {"/metrics": (404, ""), "/health": lambda: (health["status"], "{}")})
    page.wait("document.getElementById('strip').hidden && document.getElementById('health').textContent === 'not ready'")
    health["status"] = 200
    page.wait("document.getElementById('health').textContent === 'ready'")
