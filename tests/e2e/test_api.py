"""Request fields and the shape of answers beyond one prompt and one choice, over sockets: what vLLM's clients send and read.

Oracles: the openai client's own types (strict), transformers' tokenizer and templates, and the server itself asked in the
simpler way: each choice and each prompt of a list is the answer that the same request alone gets."""
import json, math

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import AutoTokenizer

from test_serve import HELLO, MODEL, Server, room

STORY = "Once upon a time there was a king"


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    if s.process.poll() is None:
        s.stop()
    assert s.process.returncode == 0, s.log()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def encode(tokenizer, text, special=True):
    """transformers 5's generic class does not look at add_bos_token of tokenizer_config.json, which the model's own one did."""
    return [tokenizer.bos_token_id] * special + tokenizer(text, add_special_tokens=False)["input_ids"]


def complete(server, **body):
    status, _, r = server.complete(**{"prompt": STORY, "temperature": 1, "seed": 5, "max_tokens": 24, **body})
    assert status == 200, r
    if not body.get("echo"):  # whose first log-probability is null, which the client's type does not know
        Completion.model_validate(r, strict=True)
    return r


def refused(server, path, body, param, message):
    status, _, r = server.post(path, body)
    assert status == 400 and r["error"]["param"] == param and message in r["error"]["message"], r


# --- choices and prompts ---------------------------------------------------------------------------------------------


def test_choices_differ_and_the_first_is_the_one_alone(server):
    alone = complete(server)
    r = complete(server, n=5)
    assert [c["index"] for c in r["choices"]] == list(range(5))
    assert r["choices"][0] == alone["choices"][0]
    assert len({c["text"] for c in r["choices"]}) == 5
    assert r["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert complete(server, n=5)["choices"] == r["choices"]
    assert complete(server, n=2, logprobs=1)["choices"][1]["text"] == r["choices"][1]["text"]


def test_usage_counts_the_prompt_once_and_every_choice(server):
    r = complete(server, n=3, ignore_eos=True)
    assert r["usage"]["completion_tokens"] == 72 and r["usage"]["total_tokens"] == r["usage"]["prompt_tokens"] + 72
    r = complete(server, prompt=[STORY, "A fox"], n=3, ignore_eos=True)
    each = [complete(server, prompt=p, max_tokens=1)["usage"]["prompt_tokens"] for p in (STORY, "A fox")]
    assert r["usage"]["prompt_tokens"] == sum(each) and r["usage"]["completion_tokens"] == 6 * 24


def test_every_prompt_of_a_list_is_answered_as_if_alone(server, tokenizer):
    texts = [STORY, "A fox", "The end of the"]
    ids = [encode(tokenizer, t) for t in texts]
    alone = [complete(server, prompt=t, n=2, logprobs=2)["choices"] for t in texts]
    for prompts in (texts, ids):
        r = complete(server, prompt=prompts, n=2, logprobs=2)
        assert [c["index"] for c in r["choices"]] == list(range(6))
        for i, c in enumerate(r["choices"]):
            assert {**c, "index": 0} == {**alone[i // 2][i % 2], "index": 0}


def test_chat_choices(server):
    ask = dict(model="tiny", messages=HELLO, temperature=1, seed=3, max_tokens=20)
    r = server.client.chat.completions.create(**ask, n=4)
    ChatCompletion.model_validate(r.model_dump(exclude_unset=True), strict=True)
    assert [c.index for c in r.choices] == [0, 1, 2, 3] and len({c.message.content for c in r.choices}) == 4
    assert r.choices[0].message.content == server.client.chat.completions.create(**ask).choices[0].message.content
    chunks = list(server.client.chat.completions.create(**ask, n=4, stream=True, stream_options={"include_usage": True}))
    texts, roles, ends = {i: "" for i in range(4)}, [], {}
    for c in chunks:
        ChatCompletionChunk.model_validate(c.model_dump(exclude_unset=True), strict=True)
        for choice in c.choices:
            assert choice.index not in ends
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role == "assistant" else []
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert texts == {c.index: c.message.content for c in r.choices} and sorted(roles) == [0, 1, 2, 3]
    assert ends == {c.index: c.finish_reason for c in r.choices}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == r.usage.completion_tokens


def test_a_streamed_list_is_the_whole_one_in_parts(server):
    ask = dict(prompt=[STORY, "A fox"], n=2, temperature=1, seed=5, max_tokens=24, logprobs=1)
    whole = server.complete(**ask)[2]["choices"]
    texts, tokens = [""] * 4, [[], [], [], []]
    for part in server.client.completions.create(model="tiny", stream=True, **ask):
        for c in part.choices:
            texts[c.index] += c.text
            tokens[c.index] += c.logprobs.tokens if c.logprobs else []
    assert texts == [c["text"] for c in whole] and tokens == [c["logprobs"]["tokens"] for c in whole]


def test_a_stop_string_in_one_choice_leaves_the_others(server):
    base = dict(n=6, ignore_eos=True, max_tokens=60)
    free = complete(server, **base)["choices"]
    stop = free[2]["text"][20:26]
    r = complete(server, **base, stop=stop)
    for a, b in zip(free, r["choices"]):
        if stop in a["text"]:
            assert b["text"] == a["text"][:a["text"].index(stop)] and b["finish_reason"] == "stop" and b["stop_reason"] == stop
        else:
            assert b == a and b["finish_reason"] == "length" and b["stop_reason"] is None
    assert r["choices"][2]["finish_reason"] == "stop" and any(c["finish_reason"] == "length" for c in r["choices"])
    assert r["usage"]["completion_tokens"] < 360
    kept = complete(server, **base, stop=stop, include_stop_str_in_output=True)
    assert kept["choices"][2]["text"] == r["choices"][2]["text"] + stop


def test_a_stop_id_says_which(server, tokenizer):
    ids = complete(server, return_token_ids=True, ignore_eos=True)["choices"][0]["token_ids"]
    assert len(ids) == 24
    r = complete(server, stop_token_ids=[ids[7]])["choices"][0]
    assert r["stop_reason"] == ids[7] and r["finish_reason"] == "stop"
    assert r["text"] == tokenizer.decode(ids[:ids.index(ids[7])])
    r = complete(server, stop_token_ids=[ids[7]], include_stop_str_in_output=True)["choices"][0]
    assert r["text"] == tokenizer.decode(ids[:ids.index(ids[7]) + 1])
    eos = tokenizer.eos_token_id
    r = complete(server, logit_bias={str(eos): 100}, stop_token_ids=[eos])["choices"][0]
    assert r["finish_reason"] == "stop" and r["stop_reason"] is None


def test_best_of_are_those_with_the_highest_mean(server):
    every = complete(server, n=8, logprobs=0)["choices"]
    mean = lambda c: math.fsum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"])
    want = sorted(every, key=mean, reverse=True)
    r = complete(server, n=3, best_of=8)
    assert [c["text"] for c in r["choices"]] == [c["text"] for c in want[:3]]
    assert [c["index"] for c in r["choices"]] == [0, 1, 2] and all(c["logprobs"] is None for c in r["choices"])
    assert r["usage"]["completion_tokens"] == sum(len(c["logprobs"]["tokens"]) for c in every)
    refused(server, "/v1/completions", {"prompt": "x", "best_of": 2, "stream": True}, "best_of", "but a stream needs it equal to n")


def test_too_many_choices(server):
    refused(server, "/v1/completions", {"prompt": ["x"] * 3, "n": 43}, "n", "expected at most 128 in all")
    refused(server, "/v1/completions", {"prompt": ["x"] * 129}, "prompt", "expected at most 128")
    assert len(complete(server, prompt=["x"] * 2, n=64, max_tokens=2)["choices"]) == 128


# --- the prompt's own log-probabilities -------------------------------------------------------------------------------


def test_an_echo_has_what_the_answer_had(server, tokenizer):
    """What the model says of tokens as it draws them, it says of them in a prompt."""
    prompt = encode(tokenizer, STORY)
    said = complete(server, prompt=prompt, logprobs=3, return_token_ids=True, ignore_eos=True, temperature=0, repetition_penalty=1)["choices"][0]
    r = complete(server, prompt=prompt + said["token_ids"], echo=True, logprobs=3, max_tokens=0)
    c, n = r["choices"][0], len(prompt)
    assert c["text"] == tokenizer.decode(prompt + said["token_ids"]) and c["finish_reason"] == "length"
    lp = c["logprobs"]
    assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"]) == len(lp["text_offset"]) == n + 24
    assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
    assert lp["token_logprobs"][n:] == pytest.approx(said["logprobs"]["token_logprobs"], abs=1e-3)  # rows of a prompt are summed in another order
    assert lp["tokens"][n:] == said["logprobs"]["tokens"]
    assert r["usage"]["completion_tokens"] == 0 and r["usage"]["prompt_tokens"] == n + 24
    assert lp["text_offset"] == [len("".join(lp["tokens"][:i])) for i in range(n + 24)]


def test_an_echo_goes_before_the_answer(server):
    plain = complete(server, n=2, logprobs=1)["choices"]
    whole = complete(server, n=2, logprobs=1, echo=True)["choices"]
    for a, b in zip(plain, whole):
        assert b["text"] == STORY + a["text"] and b["logprobs"]["token_logprobs"][-len(a["logprobs"]["tokens"]):] == a["logprobs"]["token_logprobs"]
    assert complete(server, n=2, echo=True)["choices"][1]["text"] == STORY + plain[1]["text"]
    parts = server.client.completions.create(model="tiny", prompt=STORY, echo=True, logprobs=1, n=2, temperature=1, seed=5, max_tokens=24, stream=True)
    texts, logprobs = ["", ""], [[], []]
    for p in parts:
        for c in p.choices:
            texts[c.index] += c.text
            logprobs[c.index] += c.logprobs.token_logprobs if c.logprobs else []
    assert texts == [c["text"] for c in whole] and logprobs == [c["logprobs"]["token_logprobs"] for c in whole]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
def test_prompt_logprobs(server, tokenizer, chat):
    if chat:
        status, _, r = server.chat(prompt_logprobs=2, max_tokens=2, return_token_ids=True)
        ids, rows = r["prompt_token_ids"], r["prompt_logprobs"]
    else:
        r = complete(server, prompt_logprobs=2, max_tokens=2, return_token_ids=True)
        ids, rows = r["choices"][0]["prompt_token_ids"], r["choices"][0]["prompt_logprobs"]
        echo = complete(server, echo=True, logprobs=2, max_tokens=2)["choices"][0]
        assert echo["logprobs"]["token_logprobs"][1:len(ids)] == [row[str(i)]["logprob"] for i, row in zip(ids[1:], rows[1:])]
    assert len(rows) == len(ids) and rows[0] is None
    for i, row in zip(ids[1:], rows[1:]):
        assert list(row)[0] == str(i) and len(row) in (2, 3)  # the prompt's token, and the two likeliest
        assert all(set(v) == {"logprob", "rank", "decoded_token"} for v in row.values())
        ranked = sorted((v for v in row.values() if v["rank"]), key=lambda v: v["rank"])
        assert [v["rank"] for v in ranked] == [1, 2] and ranked[0]["logprob"] >= ranked[1]["logprob"]
        assert row[str(i)]["decoded_token"] == tokenizer.decode([i])
    refused(server, "/v1/completions", {"prompt": "x", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "stream")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("logprobs", [None, 0, 1, 4])
@pytest.mark.parametrize("prompt_logprobs", [None, 0, 2, 6])
@pytest.mark.parametrize("echo", [False, True], ids=["", "echo"])
def test_every_list_has_its_own_number(server, tokenizer, echo, logprobs, prompt_logprobs, stream):
    ask = dict(prompt=STORY, max_tokens=3, ignore_eos=True, temperature=0, echo=echo, logprobs=logprobs, prompt_logprobs=prompt_logprobs, stream=stream)
    if stream and prompt_logprobs is not None:
        refused(server, "/v1/completions", ask, "prompt_logprobs", "not available with stream")
        return
    n = len(encode(tokenizer, STORY))
    if stream:
        got = {}
        for part in server.client.completions.create(model="tiny", **{k: v for k, v in ask.items() if v is not None and k not in ("ignore_eos", "prompt_logprobs")},
                                                     extra_body={"ignore_eos": True}):
            for c in part.choices:
                for k, v in (c.logprobs.model_dump() if c.logprobs else {}).items():
                    got.setdefault(k, []).extend(v)
        got = got or None
    else:
        c = complete(server, **ask)["choices"][0]
        got = c["logprobs"]
        shown = prompt_logprobs if prompt_logprobs is not None else logprobs if echo else None
        rows = c.get("prompt_logprobs")
        assert (rows is None) == (shown is None)
        if rows:
            assert len(rows) == n and rows[0] is None
            assert all(max(1, shown) <= len(r) <= shown + 1 and sum(v["rank"] is not None for v in r.values()) == shown for r in rows[1:])
    assert (got is None) == (logprobs is None)
    if got:
        tops = got["top_logprobs"]
        assert len(tops) == len(got["tokens"]) == n * echo + 3 and (tops[0] is None) == echo
        assert all(len(t) <= logprobs + 1 for t in tops if t) and (logprobs < 2 or any(len(t) >= logprobs for t in tops if t))


def test_answers_that_would_be_huge_are_refused(server):
    ids = [7 + i % 50 for i in range(room(server) - 1)]
    for fields in ({"echo": True, "logprobs": 20, "n": 128}, {"prompt_logprobs": 20, "n": 128}):
        refused(server, "/v1/completions", {"prompt": ids, "max_tokens": 1, **fields}, "prompt_logprobs", "MiB of the answer, expected at most 16")
    assert server.post("/v1/completions", '{"prompt":"x","user":[7' + ",7" * (12 << 20) + "]}")[0] == 413
    refused(server, "/v1/completions", {"prompt": " " * (20 << 20)}, "prompt", "cannot fit")


# --- conversations ----------------------------------------------------------------------------------------------------


def test_going_on_with_the_last_message(server, tokenizer):
    messages = HELLO + [{"role": "assistant", "content": "A fox lived"}]
    open_ended = {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}
    want = tokenizer.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    assert want.endswith("A fox lived")
    ids = tokenizer(want, add_special_tokens=False)["input_ids"]
    status, _, r = server.chat(**open_ended, max_tokens=8, temperature=0, return_token_ids=True)
    assert status == 200 and r["prompt_token_ids"] == ids and r["choices"][0]["message"]["role"] == "assistant"
    text = r["choices"][0]["message"]["content"]
    echoed = server.chat(**open_ended, max_tokens=8, temperature=0, echo=True)[2]["choices"][0]["message"]["content"]
    assert echoed == "A fox lived" + text
    assert server.post("/tokenize", open_ended)[2]["tokens"] == ids
    refused(server, "/v1/chat/completions", {**open_ended, "add_generation_prompt": True}, "continue_final_message", "needs add_generation_prompt false")
    # a user's turn that is gone on with is a user's
    r = server.chat(add_generation_prompt=False, max_tokens=1)[2]
    assert r["choices"][0]["message"]["role"] == "user"


def test_continuous_usage(server):
    ask = dict(model="tiny", messages=HELLO, max_tokens=10, stream=True, extra_body={"ignore_eos": True})
    chunks = list(server.client.chat.completions.create(**ask, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == 10 and all(c.usage.prompt_tokens == chunks[0].usage.prompt_tokens for c in chunks)
    chunks = list(server.client.chat.completions.create(**ask, stream_options={"continuous_usage_stats": True}))
    assert all(c.usage is None for c in chunks)  # as vLLM: only with include_usage


# --- the prefix cache and priorities ----------------------------------------------------------------------------------


def cached(r):
    return r["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_cached_tokens_and_salts(server):
    prompt = [7 + i % 50 for i in range(400)]
    first = complete(server, prompt=prompt, max_tokens=4)
    assert cached(first) == 0
    again = complete(server, prompt=prompt, max_tokens=4)
    assert 400 - 128 < cached(again) < 400 and again["choices"] == first["choices"]
    salted = complete(server, prompt=prompt, max_tokens=4, cache_salt="pepper")
    assert cached(salted) == 0 and salted["choices"] == first["choices"]
    assert cached(complete(server, prompt=prompt, max_tokens=4, cache_salt="pepper")) == cached(again)
    parts = list(server.client.completions.create(model="tiny", prompt=prompt, max_tokens=4, stream=True, stream_options={"include_usage": True}))
    assert parts[-1].usage.prompt_tokens_details.cached_tokens == cached(again)
    for bad in ("", "x" * 64, 5):
        refused(server, "/v1/completions", {"prompt": "x", "cache_salt": bad}, "cache_salt", "cache_salt: found")


def test_priority_is_a_number(server):
    assert complete(server, priority=-5)["choices"] == complete(server, priority=7)["choices"]
    refused(server, "/v1/completions", {"prompt": "x", "priority": "high"}, "priority", "expected an integer")


# --- tokens -----------------------------------------------------------------------------------------------------------

TEXTS = [STORY, "", " a\n\n  b", "größer 日本語 🦊\u0000x", "<｜end▁of▁sentence｜>x", "def f(x):\n\treturn x**2"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenize_is_transformers(server, tokenizer, text):
    for special in (True, False):
        status, _, r = server.post("/tokenize", {"model": "tiny", "prompt": text, "add_special_tokens": special, "return_token_strs": True})
        ids = encode(tokenizer, text, special)
        assert status == 200 and r == {"count": len(ids), "max_model_len": room(server), "tokens": ids,
                                       "token_strs": tokenizer.convert_ids_to_tokens(ids)}
        status, _, back = server.post("/detokenize", {"tokens": ids})
        assert status == 200 and back == {"prompt": tokenizer.decode(ids)}
    assert server.post("/tokenize", {"prompt": text})[2]["token_strs"] is None


def test_tokenize_a_conversation(server, tokenizer):
    want = tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(want, add_special_tokens=False)["input_ids"]
    assert server.post("/tokenize", {"messages": HELLO})[2]["tokens"] == ids
    assert server.chat(max_tokens=1)[2]["usage"]["prompt_tokens"] == len(ids)
    shorter = server.post("/tokenize", {"messages": HELLO, "add_generation_prompt": False})[2]["tokens"]
    assert shorter == ids[:len(shorter)] and len(shorter) < len(ids)
    assert server.post("/tokenize", {"messages": HELLO, "add_special_tokens": True})[2]["tokens"] == [tokenizer.bos_token_id] + ids


def test_every_token_has_its_string(server, tokenizer):
    n = len(tokenizer)
    text = server.post("/detokenize", {"tokens": list(range(n))})
    assert text[0] == 200 and text[2]["prompt"] == tokenizer.decode(list(range(n)))
    long = "word " * 20000  # more than the context can still be counted
    assert server.post("/tokenize", {"prompt": long})[2]["count"] == len(encode(tokenizer, long)) > room(server)


def test_token_requests_that_are_refused(server):
    refused(server, "/tokenize", {}, None, "expected either prompt or messages")
    refused(server, "/tokenize", {"prompt": "x" * (8 << 20)}, "prompt", "cannot fit")
    refused(server, "/detokenize", {"tokens": [1 << 30]}, "tokens", "tokens: found 1073741824")
    refused(server, "/detokenize", {"tokens": "x"}, "tokens", "expected a list of token ids")
    status, _, r = server.post("/tokenize", {"prompt": "x", "model": "gpt-4"})
    assert status == 404 and r["error"]["code"] == "model_not_found"
    status, _, r = server.post("/tokenize", "{")
    assert status == 400


def test_fields_that_are_not_built_are_refused(server):
    for field, value in {"use_beam_search": True, "structured_outputs": {"json": {}}, "bad_words": ["x"], "truncate_prompt_tokens": 5}.items():
        refused(server, "/v1/completions", {"prompt": "x", field: value}, field, "is not supported")
    assert complete(server, use_beam_search=False, bad_words=[], suffix="")["choices"]
