# SPDX-License-Identifier: Apache-2.0
"""`supernode sim run` as a planner uses it: the examples, one seed is one run, the real public traces where they are, and wrong descriptions."""
import gzip, json, os, shutil, subprocess

import pytest

from test_serve import BIN

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRACES = os.path.join(os.environ.get("SHARED", os.path.join(ROOT, "../shared")), "data/traces")
SMALL = """hardware: cloudmatrix384
model: deepseek-r1
prefill: {instances: 2, chips: 16}
decode: {instances: 1, chips: 32, ep: 64}
pool: {servers: 4, dram_gb: 64}
"""


def sim(*args, code=0, cwd=ROOT):
    p = subprocess.run([BIN, "sim", "run", *map(str, args)], capture_output=True, text=True, timeout=300, cwd=cwd)
    assert p.returncode == code, (p.stdout, p.stderr)
    return p


def report(*args):
    return json.loads(sim(*args, "--json").stdout)


def promises(r):
    assert r["wrong_tokens"] == r["wrong_pages"] == r["leaked_pages"] == r["lost_requests"] == 0
    assert r["finished"] + r["failed"] == r["requests"]


@pytest.mark.parametrize("name", sorted(os.listdir(os.path.join(ROOT, "examples"))))
def test_each_example_runs_and_keeps_its_promises(name):
    r = report(f"examples/{name}", "--duration", 5 if "day" not in name else 60)
    promises(r)
    assert r["failed"] == 0 and r["requests"] > 50 and 0 < r["ttft_s"]["p50"] < 60 and 0 < r["tpot_s"]["p50"] < 0.1


def test_one_seed_is_one_run_whatever_the_machine_does_meanwhile(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL + "load: {rate: 8, input_tokens: 2000, output_tokens: 30, duration_s: 20}\nfaults: [{what: chip, index: 3, at_s: 4, for_s: 3}]\n")
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        a = report(path, "--seed", 5)
    finally:
        for p in busy:
            p.kill()
    b, c = report(path, "--seed", 5), report(path, "--seed", 6)
    for r in (a, b, c):
        promises(r)
        del r["wall_s"], r["events_per_s"]
    assert a == b and a != c and a["moved"] + a["deaths"] >= 1


def test_rare_requests_and_long_answers_are_waited_for(tmp_path):
    path = tmp_path / "run.yaml"
    for load in ("rate: 0.0001, input_tokens: 100, output_tokens: 5, requests: 3", "arrivals: closed, input_tokens: 100, output_tokens: 130000, requests: 1"):
        path.write_text(SMALL.replace("decode: {", "decode: {imbalance: 32, mtp: false, microbatches: false, ") + "load: {%s}\n" % load)
        r = report(path)
        promises(r)
        assert r["finished"] == r["requests"] > 0 and r["virtual_s"] > 3600, r


BESIDE = """hardware: slow.yaml
model: deepseek-v2-lite
max_model_len: 1024
prefill: {chips: 1, weights: bf16}
decode: {chips: 1, mtp: false, weights: bf16, requests_per_chip: 4}
load: {trace: ../trace.jsonl, requests: 1}
"""


def lay_out(folder):
    """A description that names what lies beside it: an accelerator with hardly any bandwidth, a model, a trace."""
    (folder / "plans/tiny").mkdir(parents=True)
    hardware = open(os.path.join(ROOT, "hardware/gb200-nvl72.yaml")).read()
    assert "hbm_gbs: {value: 8000" in hardware
    (folder / "plans/slow.yaml").write_text(hardware.replace("hbm_gbs: {value: 8000", "hbm_gbs: {value: 0.04"))
    shutil.copy(os.path.join(ROOT, "models/tiny/config.json"), folder / "plans/tiny")
    (folder / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 100, "output_length": 2, "hash_ids": [1]}\n')
    return folder / "plans/run.yaml"


def test_paths_are_relative_to_the_description_and_those_of_flags_to_where_it_is_run(tmp_path):
    path = lay_out(tmp_path)
    path.write_text(BESIDE.replace("deepseek-v2-lite", "tiny/"))
    ways = [(["plans/run.yaml"], tmp_path), (["run.yaml"], path.parent), ([path], "/"), (["plans/run.yaml", "--trace", "trace.jsonl"], tmp_path)]
    for args, cwd in ways:
        r = json.loads(sim(*args, "--json", cwd=cwd).stdout)
        promises(r)
        assert r["finished"] == 1 and r["prompt_tokens"] == 100 and r["hardware"] == "gb200-nvl72"


def test_a_step_of_a_day_on_a_slow_chip_is_waited_for(tmp_path):
    path = lay_out(tmp_path)
    path.write_text(BESIDE + "faults: [{what: slow, index: 1, at_s: 0, slow: 1000}]\n")
    r = report(path)
    promises(r)
    assert r["finished"] == 1 and r["tpot_s"]["p50"] > 1e5, r


@pytest.mark.parametrize("name", sorted(os.listdir(os.path.join(ROOT, "examples"))))
def test_the_examples_run_from_anywhere(tmp_path, name):
    sim(os.path.join(ROOT, "examples", name), "--duration", 1, cwd=tmp_path)


def test_the_summary_says_what_was_checked(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL + "load: {rate: 5, input_tokens: 1000, output_tokens: 10, requests: 20}\nslo: {ttft_ms: 5000, tpot_ms: 50}\n")
    p = sim(path)
    assert "load: poisson, 5 requests/s, 1000 tokens in, 10 out; 20 requests\n" in p.stdout
    assert "20 finished, 0 failed" in p.stdout and "goodput" in p.stdout and "200 tokens: 0 wrong" in p.stdout and p.stderr == ""


def test_times_of_no_request_are_no_times(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL + "load: {duration_s: 0.001}\n")
    p = sim(path)
    assert "load: poisson, 1 requests/s, 4096 tokens in, 256 out; for 0.001 s\n" in p.stdout
    assert "TTFT         mean        -  p50        -" in p.stdout and "events/s" not in p.stdout
    r = report(path)
    assert r["requests"] == 0 and r["ttft_s"]["p50"] is None and r["e2e_s"]["max"] is None


@pytest.mark.parametrize("name", ["mooncake_conversation_trace.jsonl.gz", "mooncake_synthetic_trace.jsonl.gz", "azure2023_conv.csv.gz"])
def test_public_traces_run_plain_and_compressed(tmp_path, name):
    path = os.path.join(TRACES, name)
    if not os.path.exists(path):
        pytest.skip(f"{name} is not there")
    config = tmp_path / "run.yaml"
    config.write_text(SMALL + "max_model_len: 262144\nload: {duration_s: 60}\n")
    plain = tmp_path / "trace"
    plain.write_bytes(gzip.open(path).read())
    a, b = report(config, "--trace", path), report(config, "--trace", plain)
    promises(a)
    del a["wall_s"], a["events_per_s"], b["wall_s"], b["events_per_s"]
    assert a == b and a["requests"] > 50 and a["failed"] == 0


@pytest.mark.parametrize("text,said", [
    ("load: {duration_s: 1}\nprefil: {}\n", "line 2: prefil"), ("hardware: cray\nload: {duration_s: 1}\n", "cray"), ("load: [1\n", "line"),
    ("model: llama\nload: {duration_s: 1}\n", "llama"), ("decode: {chips: 2}\nload: {duration_s: 1}\n", "decode: weights"),
    ("load: {duration_s: 1, trace: nowhere.jsonl}\n", "nowhere.jsonl"), ("load: {duration_s: 1}\nfaults: [{what: node, index: 99, at_s: 0}]\n", "node 99"),
    ("load: {duration_s: fast}\n", "line 1: duration_s")])
def test_wrong_descriptions_are_sentences(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    p = sim(path, code=1)
    assert p.stderr.startswith("supernode: ") and p.stderr.count("\n") == 1 and said in p.stderr, p.stderr


def test_wrong_command_lines_exit_with_2():
    assert "CONFIG" in sim("--help").stdout
    assert sim(code=2).stderr and "--sede" in sim("x.yaml", "--sede", 1, code=2).stderr
    example = os.path.join(ROOT, "examples/r1-cloudmatrix384.yaml")
    assert sim(example, "--replay", "x", code=2).stderr.startswith("supernode: sim run: --replay: expected server")
    assert sim("/nowhere.yaml", code=1).stderr.startswith("supernode: /nowhere.yaml")


@pytest.mark.parametrize("flag,value,said", [
    ("--rate", "0", "--rate: found 0, expected 1e-06 to"), ("--rate", "fast", "--rate: found 'fast', expected a number"),
    ("--seed", "-1", "--seed: found '-1'"), ("--prefill", "100", "--prefill: prefill and decode take 1632 chips"),
    ("--decode", "0", "--decode: found 0, expected 1 to 200"), ("--requests", "1.5", "--requests: found '1.5'"), ("--trace", "", "--trace: found nothing")])
def test_a_flag_is_checked_as_the_file_is_and_named(tmp_path, flag, value, said):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL + "load: {rate: 5, duration_s: 10}\n")
    p = sim(path, flag, value, code=2)
    assert p.stderr.startswith("supernode: sim run: " + said) and p.stderr.count("\n") == 1, p.stderr


def test_a_flag_may_give_what_the_file_leaves_out(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL + "load: {rate: 5, input_tokens: 1000, output_tokens: 10}\n")
    assert "duration_s or requests" in sim(path, code=1).stderr
    assert report(path, "--requests", 7)["requests"] == 7
