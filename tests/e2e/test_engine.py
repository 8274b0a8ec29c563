"""The engine through the server: one answer under load, what the prefix cache finds, what a client that leaves gives back."""
import concurrent.futures, json, random

import pytest
from test_serve import HELLO, LONG, Server, request_bytes, read_until
from test_serving import metrics, wait_for


@pytest.fixture(scope="module")
def roomy():
    s = Server()
    yield s
    s.stop()


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_the_second_turn_finds_every_full_block_of_the_first(roomy, seed):
    turn = [{"role": "user", "content": "Tell me a story about a fox and a crow, and tell it slowly. " * 3}]
    _, _, first = roomy.chat(messages=turn, seed=seed, max_tokens=400, min_tokens=400)
    usage = first["usage"]
    assert usage["completion_tokens"] == 400
    computed = usage["prompt_tokens"] + 399  # the last token was drawn, not computed
    turn += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}, {"role": "user", "content": "And then?"}]
    _, _, second = roomy.chat(messages=turn, max_tokens=4)
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == computed // 128 * 128 == 384


def test_the_same_prompt_again_computes_the_last_block_only(roomy):
    ids = [random.Random(7).randrange(10, 4000) for _ in range(1000)]
    cached = [roomy.complete(prompt=ids, max_tokens=2)[2]["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert cached == [0, 7 * 128]
    salted = roomy.complete(prompt=ids, max_tokens=2, cache_salt="another")[2]
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def random_bodies(n, seed):
    r = random.Random(seed)
    shared = [r.randrange(10, 4000) for _ in range(700)]
    for i in range(n):
        length = r.choice([1, 20, 130, 300, 900])
        body = {"prompt": shared[: r.randrange(700)] + [r.randrange(10, 4000) for _ in range(length)], "seed": r.randrange(1000),
                "max_tokens": r.choice([1, 10, 80, 200]), "n": r.choice([1, 1, 1, 3]), "logprobs": r.choice([None, 0, 3]),
                "temperature": r.choice([0, 0.7, 1.0]), "top_p": r.choice([1.0, 0.9]), "priority": r.randrange(3)}
        if r.random() < 0.3:
            body["repetition_penalty"] = 1.2
        if r.random() < 0.3:
            body["stop"] = [r.choice(["the", " and", "\n"])]
        yield body


def answer(s, body):
    status, _, a = s.complete(**body)
    assert status == 200, a
    return json.dumps([(c["index"], c["text"], c["logprobs"], c["finish_reason"]) for c in a["choices"]])


@pytest.mark.parametrize("flags", [("--speculate", "on", "--draft-tokens", "2"), ("--speculate", "auto", "--max-num-batched-tokens", "512")])
def test_answers_under_load_are_those_of_each_request_alone(flags):
    """A small cache, so that sequences give way; many at once; drafts. Alone: one after the other, another cache for each."""
    bodies = list(random_bodies(40, seed=len(flags)))
    quiet = Server("--speculate", "off", "--threads", "1")
    alone = [answer(quiet, {**b, "cache_salt": f"alone-{i}"}) for i, b in enumerate(bodies)]
    quiet.stop()
    busy = Server("--max-model-len", "2048", "--kv-cache-memory", "4M", *flags)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda b: answer(busy, b), bodies))
    m = metrics(busy)
    busy.stop()
    assert together == alone
    assert m['supernode_prefix_cache_hits_total{model_name="tiny"}'] > 0


def test_a_client_that_leaves_gives_its_pages_back(roomy):
    name = 'supernode_request_success_total{model_name="tiny",finished_reason="abort"}'
    before = metrics(roomy)[name]
    streams = [roomy.socket(request_bytes("/v1/completions", {"prompt": [5 + i] * 200, "max_tokens": 7000, "stream": True, **LONG})) for i in range(8)]
    for s in streams:
        read_until(s, b"data: ")
    assert metrics(roomy)['supernode_kv_cache_usage_perc{model_name="tiny"}'] > 0
    for s in streams:
        s.close()
    wait_for(lambda: metrics(roomy)['supernode_kv_cache_usage_perc{model_name="tiny"}'] == 0, 10)
    m = metrics(roomy)
    assert m[name] == before + 8 and m['supernode_num_requests_running{model_name="tiny"}'] == 0
