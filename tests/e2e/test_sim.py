# SPDX-License-Identifier: Apache-2.0
"""supernode sim op and sim step: answers, formulas, traces, and what is said to a wrong question."""

import json
import os
import re
import subprocess

import pytest

ROOT = os.environ["SUPERNODE_ROOT"]
BINARY = os.environ["SUPERNODE_BIN"]
TINY = os.path.join(ROOT, "models/tiny")


def run(*args):
    return subprocess.run([BINARY, "sim", *args], capture_output=True, text=True, timeout=120)


def ok(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def op(*args):
    return json.loads(ok("op", *args, "--json"))


def sentence(*args):
    done = run(*args)
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("supernode: "), done.stderr
    return lines[0]


@pytest.mark.parametrize("command", ["op", "step"])
def test_help_fits_a_screen(command):
    out = ok(command, "--help")
    assert len(out.split("\n")) <= 26, out
    assert "usage: supernode sim " + command in out and "example:" in out


NAMES = ["embed", "mla_prolog", "mla_up", "attention", "attention_wide", "o_proj", "gate", "quantise", "reorder", "dispatch", "gmm",
         "combine", "sum", "dense", "head", "sample", "mtp_proj", "all_gather", "all-to-all", "reduce_scatter", "all_reduce", "transfer"]


@pytest.mark.parametrize("hardware", ["cloudmatrix384", "h800", "gb200-nvl72", "cpu"])
def test_every_operator_has_an_answer(hardware):
    for name in NAMES:
        o = op(name, "--hardware", hardware)
        assert o["time_us"] > 0 and o["hardware"] == hardware and o["formula"], o


def test_explain_prints_the_formula_with_its_numbers():
    out = ok("op", "dispatch", "--ep", "256", "--explain")
    assert out.startswith("dispatch 152 us   = ") and "[slowest of 255 peers]" in out and "vector cores" in out and "start 11.4 us" in out


def test_a_transfer_takes_the_plane_that_has_the_way():
    o = op("transfer", "--bytes", "512")
    assert abs(o["bare_us"] - 1.203) < 0.001 and abs(o["time_us"] - 5.6) < 0.001
    assert "bare_us" not in op("transfer", "--bytes", "16M")
    assert "[ib]" in op("transfer", "--hardware", "h800", "--other-node")["formula"]
    s = sentence("op", "transfer", "--hardware", "h800", "--other-node", "--plane", "nvlink")
    assert s.endswith("no die of h800 reads in another node over nvlink; planes that can: ib")


@pytest.mark.parametrize("name", ["all_gather", "all_to_all", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("ranks", ["2", "8", "48"])
def test_the_numbers_of_a_collectives_formula_give_its_time(name, ranks):
    o = op(name, "--hardware", "h800", "--bytes", "4M", "--ranks", ranks)
    start, mb, gbs = (float(x) for x in re.findall(r"([\d.]+) us start \+ ([\d.]+) MB / ([\d.]+) GB/s", o["formula"])[0])
    assert abs(o["time_us"] / ((2 if name == "all_reduce" else 1) * (start + mb / gbs * 1e3)) - 1) < 0.002


def test_a_matmul_by_hand_and_the_models_own():
    o = op("gmm", "--groups", "4", "--m", "7168", "--n", "4096", "--k", "4096")
    assert o["operations"] == 2 * 4 * 7168 * 4096 * 4096
    assert abs(o["operations"] / o["time_us"] / 752e6 - 0.794) < 0.02
    assert op("gmm", "--batch", "256")["time_us"] > op("gmm", "--batch", "16")["time_us"]


def test_a_models_folder_is_a_shape():
    assert op("attention", "--model", TINY)["operations"] < op("attention")["operations"]


def test_a_decode_step_as_a_table_and_as_json():
    out = ok("step", "decode", "--imbalance", "1.55")
    assert out.startswith("decode step ") and "tokens/s a chip" in out and "2 microbatches" in out
    o = json.loads(ok("step", "decode", "--imbalance", "1.55", "--json"))
    assert abs(o["tokens_per_s_per_chip"] - 96 / o["tpot_ms"] * 1e3) < 1
    assert {"attention", "dispatch", "gmm", "combine", "head"} <= {x["operator"] for x in o["operators"]}
    for x in o["operators"]:
        assert abs(x["one_us"] * x["times"] / 1e3 - x["all_ms"]) < 1e-6 * x["all_ms"] + 1e-9


def test_chance_and_unequal_lengths_make_a_step_longer():
    times = [json.loads(ok("step", "decode", "--imbalance", "1.2", *x, "--json"))["step_ms"] for x in (["--even"], [], ["--kv-spread", "0.5"])]
    assert times == sorted(times) and times[0] < times[1] < times[2]
    assert op("gmm", "--ep", "256", "--even")["time_us"] < op("gmm", "--ep", "256")["time_us"]


def test_a_prefill_batch_and_its_chrome_trace(tmp_path):
    path = tmp_path / "trace.json"
    o = json.loads(ok("step", "prefill", "--json", "--chrome-trace", str(path)))
    events = json.loads(path.read_text())["traceEvents"]
    work = [e for e in events if e["ph"] == "X"]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"cubes", "vectors", "copies"}
    assert abs(max(e["ts"] + e["dur"] for e in work) / 1e3 - o["step_ms"]) < 1e-6 * o["step_ms"]
    for stream in range(3):
        end = 0
        for e in sorted((e for e in work if e["tid"] == stream), key=lambda e: e["ts"]):
            assert e["ts"] >= end - 1e-3
            end = e["ts"] + e["dur"]


def test_reuse_makes_a_batch_shorter():
    times = [json.loads(ok("step", "prefill", "--reuse", r, "--json"))["step_ms"] for r in ("0", "0.5", "0.9")]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("args, words", [
    (["op", "nonsense"], ["unknown operator nonsense", "dispatch"]),
    (["op", "gmm", "--m", "3"], ["--m 3", "all three"]),
    (["op", "gate", "--m", "3", "--n", "3", "--k", "3"], ["belong to gmm"]),
    (["op", "dispatch", "--ep", "5000"], ["5000 ranks", "768 dies"]),
    (["op", "dispatch", "--plane", "x"], ["found x", "ub, rdma, vpc"]),
    (["op", "dispatch", "--batch", "0"], ["batch"]),
    (["op", "dispatch", "--hardwar", "x"], ["did you mean --hardware?"]),
    (["op", "dispatch", "--hardware", "x"], ["hardware x", "cloudmatrix384"]),
    (["op", "dispatch", "--model", "x"], ["model x", "deepseek-r1"]),
    (["op"], ["argument missing"]),
    (["step", "train"], ["decode or prefill"]),
    (["step", "decode", "--chips", "2"], ["weights", "GB a die"]),
    (["step", "decode", "--ep", "321"], ["ep", "320"]),
    (["step", "decode", "--hardware", "gb200-nvl72", "--chips", "100"], ["found 100", "at most the 72"]),
    (["step", "decode", "--batch", "4000"], ["--batch 4000", "GB of KV"]),
    (["step", "decode", "--batch", "1", "--kv", "600000"], ["--kv 600000", "GB of KV"]),
    (["step", "decode", "--batch", "250", "--kv-spread", "1"], ["--batch 250", "46.0 GB of KV on the fullest die", "36.8 GB"]),
    (["step", "prefill", "--tokens", "16777216"], ["--tokens 16777216", "GB of KV"]),
    (["step", "prefill", "--ep", "16"], ["GB of KV", "0.0 GB that weights leave"]),
    (["step", "prefill", "--attention", "data", "--tokens", "16000", "--prompt", "256000"], ["--tokens 16000 in prompts of 256000", "GB of KV"]),
    (["cache", "--batch", "16777216", "--reuse", "0.5"], ["cache: --batch 16777216", "GB of KV"]),
    (["step", "decode", "--plane", "x"], ["found x"]),
    (["step", "decode", "--attention-share", "1"], ["attention share", "less than 1"]),
])
def test_a_wrong_question_gets_a_sentence(args, words):
    text = sentence(*args)
    for w in words:
        assert w in text, text


def test_a_trace_that_cannot_be_written_says_so(tmp_path):
    done = run("step", "decode", "--chrome-trace", str(tmp_path / "no" / "x.json"))
    assert done.returncode == 1 and "cannot write" in done.stderr
