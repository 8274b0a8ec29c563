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


def test_an_all_reduce_sends_twice_what_its_halves_send():
    once, both = (op(name, "--bytes", "1G", "--ranks", "16") for name in ("reduce_scatter", "all_reduce"))
    assert both["network_bytes"] == 2 * once["network_bytes"] and abs(both["gb_per_s"] / once["gb_per_s"] - 1) < 1e-9


def test_a_type_that_the_chip_has_no_units_for_is_said():
    line = "cloudmatrix384 has no units of fp8: weights lie in it and are computed in bf16"
    for args in (["op", "gmm"], ["step", "decode"], ["step", "prefill"], ["cache"]):
        assert line in ok(*args, "--dtype", "fp8") and "no units" not in ok(*args)
        o = json.loads(ok(*args, "--dtype", "fp8", "--json"))
        assert (o["weights"], o["computed_in"]) == ("fp8", "bf16")
    assert "no units" not in ok("op", "dispatch", "--dtype", "fp8")


def test_the_starts_of_transfers_and_collectives_are_told():
    o = op("all_gather")
    assert abs(o["start_us"] + o["network_us"] - o["time_us"]) < 1e-9 and abs(o["start_us"] - 4.644) < 0.001
    assert "= 5.6 us - 0.9555 us that the wire of a message of 0.1311 MB hides = 4.644 us start" in ok("op", "all_gather", "--explain")
    assert op("all_gather", "--ranks", "1")["formula"] == "a rank alone sends nothing"
    o = op("transfer", "--bytes", "1M")
    assert o["start_us"] == 5.6 and abs((o["start_us"] ** 4 + o["network_us"] ** 4) ** 0.25 - o["time_us"]) < 1e-9


def test_bytes_on_their_way_have_no_type():
    assert all("weights" not in op(x) and "computed_in" not in op(x) for x in ("transfer", "all_gather", "all_reduce"))
    assert op("dispatch")["weights"] == "int8"


def test_an_imbalance_that_nobody_gave_is_never_too_much():
    assert op("gmm", "--ep", "1", "--groups", "4")["time_us"] > 0


def test_figures_have_no_exponent_and_name_their_unit():
    for args in (["all_to_all", "--bytes", "4G"], ["gmm", "--imbalance", "32"], ["gmm", "--m", "1", "--n", "1", "--k", "1"], ["mla_prolog"]):
        out = ok("op", *args, "--explain")
        assert not re.search(r"\de[+-]\d", out), out
    assert "2 OP, " in ok("op", "gmm", "--m", "1", "--n", "1", "--k", "1") and "2.886 TOP, " in ok("op", "gmm", "--imbalance", "32")
    assert " TOPS a core" in ok("op", "gmm", "--explain") and " TOPS over all" in ok("op", "gmm")
    assert "TOPS" not in ok("op", "gmm", "--dtype", "bf16", "--explain") and "TFLOPS over all" in ok("op", "gmm", "--dtype", "bf16")
    assert "TFLOPS over all" in ok("op", "attention") and "1 row x 20 us" in ok("op", "mla_prolog", "--batch", "1", "--explain")


def test_the_numbers_of_combines_formula_give_its_time():
    o = op("combine", "--explain")
    network, memory = (float(x) for x in re.findall(r"= ([\d.]+) us \^4", o["formula"]))
    assert o["formula"].endswith(" us ^4) ^(1/4) + start 9.7 us")
    assert abs((network ** 4 + memory ** 4) ** 0.25 + 9.7 - o["time_us"]) < 0.05


def test_operators_have_the_names_that_libraries_use():
    for name, alias in (("all_reduce", "allreduce"), ("reduce_scatter", "reducescatter"), ("all_gather", "allgather"), ("all_to_all", "alltoall")):
        assert op(alias) == op(name)


def test_json_says_what_was_asked_and_what_the_text_has():
    o = json.loads(ok("step", "decode", "--imbalance", "1.55", "--batch", "48", "--kv", "2000", "--acceptance", "0.9", "--json"))
    assert (o["model"], o["weights"], o["batch_per_chip"], o["kv_tokens"], o["kv_spread"]) == ("deepseek-r1", "int8", 48, 2000, 0)
    assert (o["imbalance"], o["acceptance"], o["mtp"]) == (1.55, 0.9, True)
    assert abs(o["work_ms"] - sum(x["all_ms"] for x in o["operators"])) < 1e-6
    assert abs(o["work_ms"] - o["beside_ms"] - o["step_ms"]) < 1e-6
    o = json.loads(ok("step", "prefill", "--reuse", "0.5", "--json"))
    assert (o["tokens_per_chip"], o["prompt_tokens"], o["reuse"], o["attention"]) == (16384, 4096, 0.5, "staged")
    assert abs(o["computed_tokens_per_s_per_chip"] / o["tokens_per_s_per_chip"] - 0.5) < 1e-6
    for command in ("cache", "load"):
        text = ok(command, "--explain")
        lines = json.loads(ok(command, "--explain", "--json"))["formulas"]
        assert text.endswith("\n\n" + "\n".join(lines) + "\n") and len(lines) > 3
        assert "formulas" not in json.loads(ok(command, "--json"))


def test_one_is_not_many_and_nothing_is_not_negative():
    out = ok("step", "decode", "--hardware", "h800", "--model", "deepseek-v2-lite", "--chips", "1")
    assert ", 1 die, EP1 (64 experts each)" in out and "of which 0.00 ms" in out
    assert "(1 expert each, 32 ranks" in ok("step", "decode")
    assert "-0.0%" not in ok("paper")
    assert "a bucket of 1000 GB/s" in ok("load", "--bucket-gbs", "1000")


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


def test_a_prefill_batch_says_what_the_hand_over_of_a_prompt_takes():
    asked = ("step", "prefill", "--prompt", "8192")
    ms = json.loads(ok(*asked, "--json"))["handover_ms"]
    assert abs(ms - 8192 * 62 * 1152 / 23.9e9 * 1e3) < 0.01 * ms  # latents in BF16, the draft layer's too, over what RDMA reaches
    assert f"hand-over of a prompt's KV {ms:.2f} ms over rdma" in ok(*asked)
    assert "handover_ms" not in json.loads(ok("step", "prefill", "--hardware", "cpu", "--model", "deepseek-v2-lite", "--json"))


def test_what_would_never_end_is_refused(tmp_path):
    path, way = tmp_path / "cut.yaml", "write: {gbs: 137, us: 1.3}"
    whole = open(os.path.join(ROOT, "hardware/cloudmatrix384.yaml")).read()
    assert way in whole
    path.write_text(whole.replace(way, "# " + way))
    for ask in (("step", "prefill"), ("cache",)):
        assert sentence(*ask, "--hardware", str(path)).endswith(f"{ask[0]}: it would never end: a path of cloudmatrix384 is missing")


def test_an_empty_plane_is_none():
    for ask in (("op", "dispatch", "--hardware", "h800"), ("step", "decode", "--hardware", "h800")):
        assert ok(*ask, "--plane", "") == ok(*ask)


def test_reuse_makes_a_batch_shorter():
    times = [json.loads(ok("step", "prefill", "--reuse", r, "--json"))["step_ms"] for r in ("0", "0.5", "0.9")]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("args, words", [
    (["op", "nonsense"], ["unknown operator nonsense", "dispatch"]),
    (["op", "gmm", "--m", "3"], ["--m 3", "all three"]),
    (["op", "gate", "--m", "3", "--n", "3", "--k", "3"], ["--m is for gmm, found gate"]),
    (["op", "gmm", "--m", "3", "--n", "3", "--k", "3", "--batch", "5"], ["--batch is for operators of a model, found gmm by hand"]),
    (["op", "gmm", "--what", "write"], ["--what is for transfer, found gmm"]),
    (["op", "transfer", "--ranks", "8"], ["--ranks is for collectives, found transfer"]),
    (["op", "all_gather", "--batch", "8"], ["--batch is for operators of a model, found all_gather"]),
    (["op", "dispatch", "--kv", "8"], ["--kv is for attention and attention_wide, found dispatch"]),
    (["step", "prefill", "--batch", "5"], ["--batch is for decode"]),
    (["step", "prefill", "--kv", "100"], ["--kv is for decode"]),
    (["step", "prefill", "--acceptance", ".5"], ["--acceptance is for decode"]),
    (["step", "prefill", "--no-mtp"], ["--mtp is for decode"]),
    (["step", "decode", "--tokens", "5"], ["--tokens is for prefill"]),
    (["step", "decode", "--layer-fixed-us", "5"], ["--layer-fixed-us is for prefill"]),
    (["step", "decode", "--mtp", "--model", "deepseek-v2-lite"], ["--mtp", "no MTP layer"]),
    (["step", "decode", "--no-mtp", "--acceptance", ".5"], ["--acceptance is for MTP"]),
    (["load", "--model", "deepseek-r1", "--model-gb", "10"], ["--model and --model-gb"]),
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
    (["step", "decode", "--imbalance", "1000"], ["imbalance: found 1000", "at most 36", "288 ranks of 1 expert each"]),
    (["step", "prefill", "--imbalance", "32.1"], ["at most 32"]),
    (["cache", "--imbalance", "50"], ["at most 32"]),
    (["op", "gmm", "--imbalance", "1000"], ["--imbalance 1000", "at most 32"]),
    (["op", "attention", "--batch", "128", "--requests", "129"], ["--requests 129", "at most --batch 128"]),
    (["step", "prefill", "--layer-fixed-us", "-5"], ["--layer-fixed-us", "found -5"]),
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
