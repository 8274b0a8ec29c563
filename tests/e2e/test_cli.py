# SPDX-License-Identifier: Apache-2.0
"""The commands as a person meets them: help, mistakes, the default model, and answers that repeat."""

import json
import math
import os
import subprocess

import pytest

ROOT = os.environ["SUPERNODE_ROOT"]
BINARY = os.environ["SUPERNODE_BIN"]
TINY = os.path.join(ROOT, "models/tiny")
COMMANDS = ["serve", "chat", "generate", "info", "score", "logits", "tokenize", "template", "bench model", "bench serve", "bench bus"]


def run(*args, stdin="", env=None):
    return subprocess.run([BINARY, *args], input=stdin, capture_output=True, text=True, timeout=120,
                          env={**os.environ, **(env or {})})


def ok(*args, **kw):
    done = run(*args, **kw)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sentence(done, code):
    """The one line on stderr of a run that must fail with this exit code."""
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("supernode: "), done.stderr
    return lines[0][len("supernode: "):]


def generate(*args, **kw):
    return json.loads(ok("generate", *args, "--json", **kw))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_says_usage_and_example(command):
    out = ok(*command.split(), "--help")
    assert len(out.split("\n")) <= 26, out
    assert "usage: supernode " + command in out and "example:" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_names_the_near_one(command):
    flag = {"serve": "port", "generate": "prompt", "info": "json", "score": "context", "logits": "chunk", "tokenize": "decode",
            "bench model": "prefill"}.get(command)
    text = sentence(run(*command.split(), "--" + (flag[:-1] if flag else "nonsense")), 2)
    assert text.startswith(command + ": unknown flag --")
    if flag:
        assert f"did you mean --{flag}?" in text


def test_the_table_of_commands():
    out = ok("--help")
    for command in COMMANDS:
        assert "\n  " + command.split()[0] + " " in out
    assert run().returncode == 2
    assert "unknown command 'sevre'" in sentence(run("sevre"), 2)
    assert ok("--version").startswith("supernode ")


def test_values_out_of_range_are_refused_with_the_range():
    assert sentence(run("generate", "--top-p", "1.5"), 2) == "generate: --top-p: found 1.5, expected 0 to 1"
    assert sentence(run("generate", "--max-tokens", "many"), 2) == "generate: --max-tokens: found 'many', expected an integer"
    assert "expected" in sentence(run("generate", "--prompt"), 2)
    assert "exclude each other" in sentence(run("generate", "--prompt", "x", "--ids", "1"), 2)
    assert sentence(run("generate", "--kv-dtype", "int3"), 2) == "generate: --kv-dtype: found 'int3', expected auto|f32|bf16"


def test_a_model_that_is_not_there():
    assert sentence(run("info", "/nowhere/at/all"), 1) == "/nowhere/at/all: no such directory"
    assert "not in the Hugging Face cache" in sentence(run("info", "org/name", env={"HF_HUB_CACHE": "/nowhere"}), 1)


def test_info_of_the_default_model():
    text = ok("info")
    assert "DeepseekV3ForCausalLM" in text and "16 experts top 3 in 2 of 4 groups + 1 shared" in text and "MTP" in text
    facts = json.loads(ok("info", "--json"))
    assert facts["mtp_layers"] == 1 and facts["bytes"] <= 24e6 and len(facts["weights_id"]) == 64
    assert facts["kv_dtype"] == "bf16"
    other = json.loads(ok("info", "--json", "--kv-dtype", "f32"))
    assert other["weights_id"] == facts["weights_id"] and other["model_id"] != facts["model_id"]


def test_a_written_digest_is_the_identity_while_it_is_true(tmp_path):
    import shutil
    model = tmp_path / "m"
    shutil.copytree(TINY, model)
    before = json.loads(ok("info", str(model), "--json"))
    after = json.loads(ok("info", str(model), "--json", "--write-sha256"))
    assert (before["weights_id_from"], after["weights_id_from"]) == ("samples", "sha256 file")
    with open(model / "model.safetensors", "r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x11")
    assert json.loads(ok("info", str(model), "--json"))["weights_id_from"] == "samples"


def test_the_same_seed_gives_the_same_answer_and_another_gives_another():
    args = ["--prompt", "Once upon a time there was a king", "--max-tokens", "40"]
    first, again, other = (generate(*args, "--seed", s) for s in ("7", "7", "8"))
    assert first["ids"] == again["ids"] and first["text"] == again["text"]
    assert first["ids"] != other["ids"]
    drawn = generate(*args)
    assert generate(*args, "--seed", str(drawn["seed"]))["ids"] == drawn["ids"]


def test_threads_chunks_and_instruction_sets_do_not_change_an_answer():
    args = ["--prompt", "A fox and a crow met in the wood. " * 30, "--max-tokens", "24", "--seed", "3", "--logprobs", "2"]
    want = generate(*args)
    for flags, env in ((["--threads", "1"], {}), (["--chunk", "1"], {}), (["--chunk", "37", "--threads", "3"], {}),
                       ([], {"SUPERNODE_ISA": "ref"})):
        got = generate(*args, *flags, env=env)
        assert got["ids"] == want["ids"] and got["logprobs"] == want["logprobs"], (flags, env)


def test_prompt_from_flag_file_and_stdin_are_one(tmp_path):
    text = "The king's daughter said:\n"
    (tmp_path / "p").write_text(text)
    args = ["--max-tokens", "8", "--temperature", "0"]
    a = generate("--prompt", text, *args)
    assert generate("--file", str(tmp_path / "p"), *args)["ids"] == a["ids"]
    assert generate(*args, stdin=text)["ids"] == a["ids"]
    assert generate("--ids", ",".join(map(str, a["prompt_ids"])), *args)["ids"] == a["ids"]
    assert ok("generate", "--prompt", text, *args) == a["text"] + "\n"


def test_a_stop_string_ends_the_text_before_it():
    args = ["--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "60"]
    text = generate(*args)["text"]
    stop = text[20:24]
    cut = generate(*args, "--stop", stop)
    assert cut["text"] == text[:text.index(stop)] and cut["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] == len(cut["ids"]) < 60


def test_logprobs_are_those_of_the_logits(tmp_path):
    from struct import unpack
    answer = generate("--prompt", "The wolf", "--max-tokens", "6", "--temperature", "0", "--logprobs", "3", "--kv-dtype", "f32")
    ids = answer["prompt_ids"] + answer["ids"]
    out = tmp_path / "l.safetensors"
    ok("logits", "--ids", ",".join(map(str, ids)), "--out", str(out))
    raw = out.read_bytes()
    header = json.loads(raw[8:8 + unpack("<Q", raw[:8])[0]])
    start = 8 + unpack("<Q", raw[:8])[0] + header["logits"]["data_offsets"][0]
    vocab = header["logits"]["shape"][1]
    for i, entry in enumerate(answer["logprobs"]):
        row = unpack(f"<{vocab}f", raw[start + (len(answer["prompt_ids"]) - 1 + i) * vocab * 4:][:vocab * 4])
        lse = max(row) + math.log(sum(math.exp(v - max(row)) for v in row))
        assert entry["id"] == answer["ids"][i] == row.index(max(row))
        assert abs(entry["logprob"] - (row[entry["id"]] - lse)) < 1e-3
        assert entry["top"][0]["id"] == entry["id"] and len(entry["top"]) == 3


def test_context_is_a_limit_and_eos_a_stop():
    text = sentence(run("generate", "--prompt", "x", "--max-tokens", "9000"), 1)
    assert text.startswith("max_tokens: 9000 with a prompt of ") and text.endswith("exceeds max-model-len 8192")
    assert generate("--prompt", "x", "--max-tokens", "0")["ids"] == []


def test_score_is_the_perplexity_of_the_logits(tmp_path):
    (tmp_path / "t").write_text("There was once a poor woodcutter who lived with his wife by a great forest.\n" * 20)
    a = json.loads(ok("score", TINY, str(tmp_path / "t"), "--json"))
    b = json.loads(ok("score", TINY, str(tmp_path / "t"), "--json", "--threads", "1"))
    assert a["perplexity"] == b["perplexity"] and 1 < a["perplexity"] < 200
    assert a["bytes"] == 20 * 76 and a["tokens"] > 200
    small = json.loads(ok("score", TINY, str(tmp_path / "t"), "--json", "--context", "16"))
    assert small["perplexity"] > a["perplexity"]


def test_bench_model_prints_limits_and_shares():
    r = json.loads(ok("bench", "model", "--layers", "2", "--prefill", "32", "--decode", "2", "--threads", "1", "--weights", "fp8", "--json"))
    assert r["cpu"] and r["read_gbs"] > 0 and r["fma_gflops"] > 0
    assert 0 < r["decode_share_of_bandwidth"] < 1.2 and 0 < r["prefill_share_of_fma_peak"] < 1.2
