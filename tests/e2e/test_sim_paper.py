# SPDX-License-Identifier: Apache-2.0
"""supernode sim cache and sim paper: tables, formulas, JSON, and that the docs' predictions are what is printed."""

import json
import os
import subprocess

import pytest

BINARY = os.environ["SUPERNODE_BIN"]


def run(*args):
    return subprocess.run([BINARY, "sim", *args], capture_output=True, text=True, timeout=120)


def ok(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_cache_is_told_by_plane_and_reuse():
    answer = json.loads(ok("cache", "--json"))
    none, rows = answer["rows"][0], answer["rows"][1:]
    assert none["plane"] == "no cache" and none["load_ms"] == 0
    assert {r["plane"] for r in rows} == {"ub", "vpc"} and len(rows) == 12
    for r in rows:
        assert r["ttft_ms"] == pytest.approx(r["load_ms"] + r["compute_ms"], rel=1e-6)
        assert r["ttft_ms"] < none["ttft_ms"]
    only = json.loads(ok("cache", "--reuse", "0.3", "--plane", "ub", "--json"))["rows"]
    assert [r["plane"] for r in only] == ["no cache", "ub"]
    assert "GB/s a die" in ok("cache", "--reuse", "0.5", "--explain")


@pytest.mark.parametrize("args, words", [
    (["--plane", "rdma"], ["found rdma", "CPU memory"]),
    (["--plane", "x"], ["found x", "ub, rdma, vpc"]),
    (["--reuse", "1.5"], ["reuse"]),
    (["--hardware", "cpu", "--model", "deepseek-v2-lite"], ["cpu", "read_cpu"]),
])
def test_a_wrong_question_gets_a_sentence(args, words):
    done = run("cache", *args)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    for w in words:
        assert w in done.stderr


def test_the_comparison_says_all_rows_and_its_score():
    answer = json.loads(ok("paper", "--json"))
    text = ok("paper", "--all")
    assert len(answer["rows"]) == answer["predicted"] + answer["calibrated"] + answer["not_simulated"]
    for r in answer["rows"]:
        assert r["row"] in text
    assert answer["median_error"] < 0.05 and answer["over_25_percent"] == 0


def tpot(*args):
    return json.loads(ok("step", "decode", "--json", *args))["tpot_ms"]


def test_predictions_of_the_docs_are_what_is_printed():
    told = ["--imbalance", "1.55"]
    near = lambda v: pytest.approx(v, rel=0.01)
    assert tpot(*told, "--batch", "48") == near(31.5)
    assert tpot(*told, "--kv", "8192") == near(65.3)
    assert [tpot("--imbalance", x) for x in ("1", "1.1", "3")] == [near(45.3), near(45.3), near(61.6)]
    assert [tpot(*told, "--chips", n) for n in ("64", "144", "384")] == [near(50.5), near(49.2), near(49.2)]
    gpu = ["--chips", "144", "--batch", "16", "--no-mtp", *told]
    assert [tpot("--hardware", h, *gpu) for h in ("h800", "h200")] == [near(27.5), near(25.3)]
    whole = ["--chips", "72", "--batch", "128", "--no-mtp"]
    assert [tpot("--hardware", h, *whole) for h in ("gb200-nvl72", "h200")] == [near(26.7), near(52.8)]
