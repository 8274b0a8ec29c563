"""bench calibrate measures servers, and sim run takes what it wrote; bench limits says how the machine is meanwhile."""
import json, os, re, subprocess

from test_serve import BIN, MODEL


def test_a_server_is_measured_and_then_predicted(tmp_path):
    out, steps = tmp_path / "tiny.json", tmp_path / "steps"
    p = subprocess.run([BIN, "bench", "calibrate", MODEL, "--output", out, "--record", steps, "--seconds", "8", "--max-num-seqs", "4", "--speculate", "off"],
                       capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    assert "steps" in p.stdout and "chunks" in p.stdout
    c = json.load(open(out))
    assert c["engine"]["max_num_seqs"] == 4 and c["engine"]["speculate"] == "off" and c["executor"]["vocab"] == 4096
    release = tuple(int(n) for n in re.match(r"(\d+)\.(\d+)", os.uname().release).groups())
    if len(os.sched_getaffinity(0)) > 1 and release >= (6, 12):  # before, turns are not short and readings go wrong
        assert c["hop_ns"] > 0
    assert c["step"]["s"][0] > 0 and c["chunk"]["row_s"] > 0 and c["read_gbs"] > 0
    assert c["front"]["first_token_s"] > 0 and c["front"]["token_s"] > 0
    (tmp_path / "run.yaml").write_text("server: tiny.json\nload: {rate: 2, input_tokens: 100, output_tokens: 10, requests: 20}\n")
    for more in ([], ["--replay", steps]):
        r = json.loads(subprocess.run([BIN, "sim", "run", tmp_path / "run.yaml", "--json", *more], check=True, stdout=subprocess.PIPE).stdout)
        assert r["finished"] == 20 and r["output_tokens"] == 200 and r["wrong_tokens"] == 0
        assert 0 < r["ttft_s"]["p50"] < 5


def test_the_distance_of_cores_is_watched_until_interrupted():
    p = subprocess.Popen([BIN, "bench", "limits", "--watch", "--threads", "2"], stdout=subprocess.PIPE, text=True)
    readings = [float(p.stdout.readline()) for _ in range(3)]
    p.terminate()
    assert p.wait() != 0 and all(0 <= r < 1e7 for r in readings) and any(readings)
    p = subprocess.run([BIN, "bench", "limits", "--watch", "--json"], capture_output=True, text=True)
    assert p.returncode == 2 and "--watch" in p.stderr
