#!/usr/bin/env python3
"""What the simulator says of our own server, beside what it does: `bench calibrate` measures the server, `sim run` predicts
how it serves the first part of a trace, and `bench serve` asks the real one, at 0.3, 0.6 and 0.8 of the rate that it was
measured to reach. Lengths are divided so that the longest fits the model; bursts stay bursts. Also replays the times of
the real run's steps. Medians of several runs; a copy of memory before and after each says how the machine was.

bench/predict.py [--model M] [--trace FILE --first N --rows N] [--calibration FILE] [--runs 5] [-- flags of serve]"""
import argparse, gzip, json, os, random, re, signal, statistics, subprocess, sys, tempfile, threading, time

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
binary = os.path.join(root, "build/supernode")
log = lambda text: print(text, file=sys.stderr, flush=True)
args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
args.add_argument("--model", default=os.path.join(root, "models/tiny"))
args.add_argument("--trace", help="Mooncake JSONL or Azure CSV, plain or .gz; default: one of our own, Poisson and lognormal")
args.add_argument("--first", type=int, default=0, help="rows before it are left out")
args.add_argument("--rows", type=int, default=150)
args.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.8])
args.add_argument("--runs", type=int, default=5)
args.add_argument("--calibration", help="made if it is missing")
args.add_argument("--seconds", type=float, default=60, help="of calibrating")
args.add_argument("--clients", type=int, default=32, help="of the closed loop that measures capacity")
args.add_argument("--json", help="where all figures go")
args.add_argument("flags", nargs="*", help="of serve and bench calibrate, behind --")
a = args.parse_args()
work = tempfile.mkdtemp(prefix="supernode-predict-")


def run(*command):
    p = subprocess.run([binary, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {p.returncode}")
    return p.stdout


def probe():
    """GB/s that one thread copies."""
    block = bytearray(64 << 20)
    begun = time.perf_counter()
    for _ in range(4):
        bytes(block)
    return 8 * len(block) / (time.perf_counter() - begun) / 1e9


# --- the load ---------------------------------------------------------------------------------------------------


def made_up(path):
    rng, at = random.Random(1), 0
    with open(path, "w") as f:
        for _ in range(a.first + a.rows):
            at += rng.expovariate(1)
            f.write(json.dumps({"timestamp": int(1000 * at), "input_length": min(4000, int(rng.lognormvariate(6.2, 1)) + 1),
                                "output_length": min(400, int(rng.lognormvariate(3.5, 0.7)) + 1), "hash_ids": []}) + "\n")


def slice_of(path):
    """Those rows as a trace of their own; (file, longest, seconds that they span)."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as f:
        lines = [l for l in f.read().splitlines() if l.strip()]
    head = [] if lines[0].startswith("{") else [lines.pop(0)]
    rows = lines[a.first:a.first + a.rows]
    if len(rows) < 2:
        sys.exit(f"{path}: no rows from {a.first} on")
    out = os.path.join(work, "trace.csv" if head else "trace.jsonl")
    open(out, "w").write("\n".join(head + rows) + "\n")
    if head:
        from datetime import datetime
        cells = [r.split(",") for r in rows]
        # fractions have seven digits there
        when = lambda s: datetime.fromisoformat(s.split(".")[0]).timestamp() + float("0." + (s.split(".") + ["0"])[1])
        times, longest = [when(c[0]) for c in cells], max(int(c[1]) + int(c[2]) for c in cells)
    else:
        cells = [json.loads(r) for r in rows]
        times, longest = [c["timestamp"] / 1e3 for c in cells], max(c["input_length"] + c["output_length"] for c in cells)
    return out, longest, (times[-1] - times[0]) * len(rows) / (len(rows) - 1), len(set(times))


# --- the real server --------------------------------------------------------------------------------------------


class Server:
    def __init__(self, *flags):
        self.p = subprocess.Popen([binary, "serve", a.model, "--port", "0", *a.flags, *flags], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        self.port = next(m[1] for row in self.p.stdout if (m := re.search(r"http://127.0.0.1:(\d+)", row)))
        threading.Thread(target=self.p.stdout.read, daemon=True).start()

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        self.p.wait()


def ask(port, speed, seed, *more):
    out = json.loads(run("bench", "serve", "--port", port, "--dataset-name", "trace", "--dataset-path", trace, "--trace-scale", f"{1 / divisor:.9g}",
                         "--trace-speed", f"{speed:.9g}", "--ignore-eos", "--seed", seed, "--percentile-metrics", "ttft,tpot",
                         "--metric-percentiles", "50,90", "--json", *more))
    assert out["failed"] == 0, out
    return {"tokens_per_s": out["output_throughput"], "requests_per_s": out["request_throughput"], "tpot_ms": out["mean_tpot_ms"],
            "ttft_p50_ms": out["p50_ttft_ms"], "ttft_p90_ms": out["p90_ttft_ms"]}


def measure(load, i):
    """One run on a server of its own, and the replay of its steps."""
    steps, before = os.path.join(work, "steps"), probe()
    server = Server("--record-steps", steps)
    speed = load * capacity / native
    m = ask(server.port, speed, 1000 + i)
    server.stop()
    replayed = predict(speed, "--replay", steps)
    return {**m, "probe_gbs": [before, probe()], "replayed_p90": replayed["ttft_p90_ms"] / m["ttft_p90_ms"] - 1}


# --- the prediction ---------------------------------------------------------------------------------------------


def simulate(load, *flags):
    config = os.path.join(work, "run.yaml")
    open(config, "w").write(f"server: {calibration}\nload: {{trace: {trace}, length_divisor: {divisor:.9g}, requests: {a.rows}, {load}}}\n")
    r = json.loads(run("sim", "run", config, "--json", *flags))
    return {"tokens_per_s": r["output_tokens_per_s"], "requests_per_s": r["request_throughput_per_s"], "tpot_ms": 1e3 * r["tpot_s"]["mean"],
            "ttft_p50_ms": 1e3 * r["ttft_s"]["p50"], "ttft_p90_ms": 1e3 * r["ttft_s"]["p90"]}


def predict(speed, *flags):
    return simulate(f"rate_scale: {speed:.9g}", *flags)


# --- all of it --------------------------------------------------------------------------------------------------

calibration = os.path.abspath(a.calibration or os.path.join(work, "calibration.json"))
if not os.path.exists(calibration):
    log("calibrating")
    sys.stderr.write(run("bench", "calibrate", a.model, "--output", calibration, "--seconds", a.seconds, *a.flags))
source = a.trace
if not source:
    source = os.path.join(work, "made-up.jsonl")
    made_up(source)
trace, longest, span_s, n_times = slice_of(source)
a.rows = sum(1 for l in open(trace)) - trace.endswith(".csv")
divisor = max(1, longest / (json.load(open(calibration))["executor"]["max_model_len"] - 8))
native = a.rows / span_s
server = Server()
ask(server.port, 1e6, 1, "--max-concurrency", a.clients)  # the weights are mapped and read once
capacity = statistics.median(ask(server.port, 1e6, 2 + i, "--max-concurrency", a.clients)["requests_per_s"] for i in range(3))
server.stop()
foreseen = simulate(f"arrivals: closed, clients: {a.clients}")["requests_per_s"]
print(f"{os.path.basename(source)}, rows {a.first} to {a.first + a.rows - 1}, lengths divided by {divisor:.2f}; {n_times} arrival times: bursts are kept")
print(f"capacity, {a.clients} at once: measured {capacity:.2f} requests/s, predicted {foreseen:.2f} ({100 * (foreseen / capacity - 1):+.1f}%)")
print(f"{'load':>4} {'':14} {'predicted':>10} {'measured':>10} {'of runs':>19} {'error':>7}  bar")
missed, kept = 0, {"capacity": [capacity, foreseen], "loads": []}
for load in a.loads:
    foreseen = predict(load * capacity / native)
    runs = []
    for i in range(a.runs):
        runs.append(measure(load, i))
        log(f"{load}: {json.dumps(runs[-1])}")
    for key in ("tokens_per_s", "tpot_ms", "ttft_p50_ms", "ttft_p90_ms"):
        values = [r[key] for r in runs]
        real = statistics.median(values)
        error, bar = foreseen[key] / real - 1, 0.25 if key.startswith("ttft") and load > 0.7 else 0.1
        missed += abs(error) > bar
        print(f"{load:4} {key:14} {foreseen[key]:10.2f} {real:10.2f} {min(values):9.2f}{max(values):10.2f} {100 * error:+6.1f}%  "
              f"{100 * bar:.0f}% {'reached' if abs(error) <= bar else 'MISSED'}")
    error = statistics.median(r["replayed_p90"] for r in runs)
    missed += abs(error) > 0.05
    print(f"{load:4} {'replayed p90':14} {'':41} {100 * error:+6.1f}%  5% {'reached' if abs(error) <= 0.05 else 'MISSED'}")
    probes = [p for r in runs for p in r["probe_gbs"]]
    print(f"     memory copied at {min(probes):.1f} to {max(probes):.1f} GB/s")
    kept["loads"].append({"load": load, "predicted": foreseen, "measured": runs})
if a.json:
    json.dump(kept, open(a.json, "w"), indent=1)
sys.exit(missed > 0)
