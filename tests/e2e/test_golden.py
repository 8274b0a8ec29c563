# SPDX-License-Identifier: Apache-2.0
"""The binary against answers it did not make: the committed golden cases, a trained checkpoint of the same
architecture when one lies beside the project, and the embedded default model. Then the binary against itself: the
output file of `logits` is the same bytes on every instruction set, in any chunks, with any number of threads."""

import json
import os
import platform
import subprocess
import sys

import pytest

ROOT = os.environ["SUPERNODE_ROOT"]
BINARY = os.environ["SUPERNODE_BIN"]
GOLDEN = os.path.join(ROOT, "tests/golden")
sys.path.insert(0, os.path.join(ROOT, "tools/golden"))

import check  # noqa: E402
from tensorfile import read_file  # noqa: E402

CASES = [os.path.basename(c) for c in check.cases_in(GOLDEN)]

# Two greedy runs in float32 may part where first and second choice are nearer than this.
MARGIN_MIN = 1e-3


def load(name):
    case = os.path.join(GOLDEN, name)
    expect = read_file(os.path.join(case, "expect.safetensors"))
    return case, ",".join(map(str, expect["ids"].numbers())), expect


def test_there_are_cases():
    assert len(CASES) >= 16


@pytest.mark.parametrize("name", CASES)
def test_logits(name):
    case, ids, expect = load(name)
    check.check_logits(BINARY, case, ids, expect)


@pytest.mark.parametrize("name", CASES)
def test_greedy(name):
    case, ids, expect = load(name)
    check.check_greedy(BINARY, case, ids, expect)


def logits_bytes(case, ids, out, isa=None, flags=()):
    env = dict(os.environ)
    env.pop("SUPERNODE_ISA", None)
    if isa:
        env["SUPERNODE_ISA"] = isa
    command = [BINARY, "logits", case, "--ids", ids, "--out", str(out), *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=check.TIMEOUT_S)
    if isa and "this processor cannot run" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


# One case a weight type, MTP in two of them; v3-mtp and v2-lite have more than 100 tokens, v3-kimi crosses two blocks.
SAME_BITS = ["v3-kimi", "v3-mtp", "v3-fp8-shards", "v3-f16", "v2-lite", "v3-r1"]
ISAS = {"x86_64": ["ref", "avx2", "avx512"], "aarch64": ["ref", "neon"]}.get(platform.machine(), ["ref"])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SAME_BITS)
def test_instruction_sets_give_the_same_bytes(name, isa, tmp_path):
    case, ids, _ = load(name)
    for kv in ("f32", "bf16"):
        want = logits_bytes(case, ids, tmp_path / "best", flags=("--kv-dtype", kv))
        assert logits_bytes(case, ids, tmp_path / isa, isa, ("--kv-dtype", kv)) == want


@pytest.mark.parametrize("name", SAME_BITS)
def test_chunks_and_threads_give_the_same_bytes(name, tmp_path):
    case, ids, _ = load(name)
    want = logits_bytes(case, ids, tmp_path / "whole", flags=("--threads", "1"))
    for chunk, threads in (1, 1), (7, 2), (128, 1), (128, 2), (512, 2):
        flags = ("--chunk", str(chunk), "--threads", str(threads))
        assert logits_bytes(case, ids, tmp_path / "other", flags=flags) == want, flags


# --- trained models: greedy ids by transformers in float32 -------------------------------------------------------


def stored(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def check_stored(model, case, tmp_path):
    ids = ",".join(map(str, case["ids"]))
    if "top_logits" in case:
        check.run([BINARY, "logits", model, "--ids", ids, "--out", str(tmp_path / "out")])
        logits = read_file(tmp_path / "out")["logits"]
        row = logits.numbers()[-logits.shape[1] :]
        largest = max(abs(x) for x in row)
        for i, value in case["top_logits"]:
            assert abs(row[i] - value) <= check.TOLERANCE * largest + 1e-5, f"logit of id {i}"
    if case["min_margin"] < MARGIN_MIN:
        pytest.skip(f"the two best tokens are {case['min_margin']} apart: rounding may choose the other")
    command = [BINARY, "generate", model, "--ids", ids, "--max-tokens", str(len(case["greedy"])), "--temperature", "0"]
    got = json.loads(check.run([*command, "--repetition-penalty", "1", "--ignore-eos", "--kv-dtype", "f32", "--json"]))
    assert got["ids"] == case["greedy"]


TRAINED = os.path.join(ROOT, "../shared/data/tiny-checkpoint")


@pytest.mark.skipif(not os.path.isdir(TRAINED), reason="../shared/data/tiny-checkpoint is not here")
@pytest.mark.parametrize("case", stored(os.path.join(TRAINED, "greedy.json")), ids=lambda c: c["prompt"][:20])
def test_trained_checkpoint(case, tmp_path):
    check_stored(TRAINED, case, tmp_path)


@pytest.mark.parametrize("case", stored(os.path.join(GOLDEN, "tiny.json")), ids=lambda c: c["prompt"][:20])
def test_default_model(case, tmp_path):
    check_stored(os.path.join(ROOT, "models/tiny"), case, tmp_path)
