#!/usr/bin/env python3
"""What the simulator says of our own server, beside what it does: `bench calibrate` measures the server, `sim run` predicts
how it serves the first part of a trace, and `bench serve` asks the real one, at 0.3, 0.6 and 0.8 of the rate that it was
measured to reach. Lengths are divided so that the longest fits the model; bursts stay bursts. Also replays the times of
the real run's steps. Medians of several runs. On a shared machine its cores may be near each other or far apart, which
changes from minute to minute and makes a third of the speed of a small model, and its speed drifts by some percent
besides: so each run is between two calibrations, and compared with the mean of what they say. `bench limits` before and
after each run and `bench limits --watch` during it say how the machine was; a run or a calibration during which it changed
is made again (where cores move it is also some percent slower). Hosts move virtual cores that halt: meanwhile none does,
where the kernel may be asked for that. (A process of the idle class that spins would do it too, but beside one that waits
for a core, threads that wake up wait up to a tick of 4 ms.)

bench/predict.py [--model M] [--trace FILE --first N --rows N] [--runs 5] [-- flags of serve]"""
import argparse, atexit, gzip, json, os, random, re, shutil, signal, statistics, struct, subprocess, sys, tempfile, threading, time

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
args.add_argument("--seconds", type=float, default=30, help="of calibrating, between two runs")
args.add_argument("--clients", type=int, default=32, help="of the closed loop that measures capacity")
args.add_argument("--json", help="where all figures go")
args.add_argument("flags", nargs="*", help="of serve and bench calibrate, behind --")
a = args.parse_args()
work = tempfile.mkdtemp(prefix="supernode-predict-")
atexit.register(shutil.rmtree, work, ignore_errors=True)


def run(*command):
    p = subprocess.run([binary, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {p.returncode}")
    return p.stdout


def keep_awake():
    """No core halts until this process ends, where it may ask for that."""
    try:
        latency = open("/dev/cpu_dma_latency", "wb", buffering=0)
        latency.write(struct.pack("i", 0))
        atexit.register(latency.close)
    except OSError:
        log("cores may halt meanwhile: /dev/cpu_dma_latency cannot be opened")


def probe():
    return json.loads(run("bench", "limits", "--json"))


def alike(a, b):
    """ns from core to core; 0: others had the cores, which says nothing."""
    return max(a, b) < 1.5 * min(a, b) or min(a, b) == 0


def same(a, b):
    """Of two probes: the machine was alike. Two threads of one core have half its peak."""
    return alike(a["hop_ns"], b["hop_ns"]) and max(a["fma_gflops"], b["fma_gflops"]) < 1.25 * min(a["fma_gflops"], b["fma_gflops"])


def watched(hop_ns, f, *more):
    """What f returns, and whether the cores stayed so far apart meanwhile; some readings go wrong."""
    watch = subprocess.Popen([binary, "bench", "limits", "--watch"], stdout=subprocess.PIPE, text=True)
    result = f(*more)
    watch.kill()
    readings = [float(l) for l in watch.communicate()[0].splitlines()[:-1]]
    return result, len(readings) > 0 and sum(alike(r, hop_ns) for r in readings) >= 0.9 * len(readings)


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
    return {"tokens_per_s": out["output_throughput"], "requests_per_s": out["request_throughput"], "tpot_ms": out["mean_tpot_ms"], "tpot_p50_ms": out["p50_tpot_ms"],
            "ttft_p50_ms": out["p50_ttft_ms"], "ttft_p90_ms": out["p90_ttft_ms"]}


def cut(path, from_ns):
    """What was recorded since."""
    with open(path) as f:
        head, *lines = f.read().splitlines()
    open(path, "w").write("\n".join([head] + [l for l in lines if int(l.split()[1 + (l[0] == "R")]) >= from_ns]) + "\n")


def measure(load, i):
    """One run on a server of its own that has served already, beside the mean of what calibrations before and after it say,
    and the replay of its steps; None: the machine did not stay as it was."""
    global current
    steps = os.path.join(work, "steps")
    for _ in range(TRIES):
        if not current or current.old():
            current = Calibration()
        rate, before = capacity(current), probe()
        if not rate or not same(before, current.probe):
            current = None
            continue
        speed = load * rate / native
        server = Server("--record-steps", steps)
        ask(server.port, 1e6, 1, "--max-concurrency", a.clients)
        begun = time.monotonic_ns()
        m, stayed = watched(current.hop_ns, ask, server.port, speed, 1000 + i)
        server.stop()
        after = probe()
        if stayed and same(after, current.probe):
            cut(steps, begun)
            replayed = current.foresee(speed, "--replay", steps)
            around = [current, Calibration()]
            current = around[1]
            each = [c.foresee(speed) for c in around if same(c.probe, before)]
            return {**m, "foreseen": {k: statistics.mean(e[k] for e in each) for k in each[0]}, "replayed": replayed, "probes": [before, after]}
        log(f"{load}: the machine changed, {before['hop_ns']:.0f} to {after['hop_ns']:.0f} ns from core to core, "
            f"{before['fma_gflops']:.0f} to {after['fma_gflops']:.0f} GFLOP/s{'' if stayed else ', others between'}; again")
    return None


# --- the prediction ---------------------------------------------------------------------------------------------

TRIES, CALIBRATIONS, OLD = 12, 4, 4  # old: after so many times what calibrating takes
capacities = []  # of a load: how the machine was, requests/s
current = None   # the last calibration


class Calibration:
    def __init__(self):
        global divisor
        self.path = os.path.join(work, f"calibration-{time.monotonic_ns()}.json")
        for _ in range(CALIBRATIONS):
            log("calibrating")
            before = probe()
            sys.stderr.write(run("bench", "calibrate", a.model, "--output", self.path, "--seconds", a.seconds, *a.flags))
            found = json.load(open(self.path))
            fit = found["fit"]
            self.probe = probe()
            if fit["elsewhere"] <= 0.1 * (fit["elsewhere"] + fit["steps"]) and same(before, self.probe):
                break
            log("the machine changed while it was calibrated; again")
        # what was in another state is not in its table, whatever the machine is like now
        self.hop_ns = self.probe["hop_ns"] = found["hop_ns"] or self.probe["hop_ns"]
        self.at_s = time.monotonic()
        divisor = max(1, longest / (found["executor"]["max_model_len"] - 8))

    def old(self):
        return time.monotonic() - self.at_s > OLD * a.seconds

    def simulate(self, load, *flags):
        config = os.path.join(work, "run.yaml")
        open(config, "w").write(f"server: {self.path}\nload: {{trace: {trace}, length_divisor: {divisor:.9g}, "
                                f"requests: {a.rows}, {load}}}\n")
        r = json.loads(run("sim", "run", config, "--json", *flags))
        return {"tokens_per_s": r["output_tokens_per_s"], "requests_per_s": r["request_throughput_per_s"],
                "tpot_ms": 1e3 * r["tpot_s"]["mean"], "tpot_p50_ms": 1e3 * r["tpot_s"]["p50"],
                "ttft_p50_ms": 1e3 * r["ttft_s"]["p50"], "ttft_p90_ms": 1e3 * r["ttft_s"]["p90"]}

    def foresee(self, speed, *flags):
        return self.simulate(f"rate_scale: {speed:.9g}", *flags)


def capacity(calibration):
    """Of the machine as it was then, measured once; None: it did not stay so."""
    known = next((rate for then, rate in capacities if same(then, calibration.probe)), None)
    if known:
        return known
    server, runs = Server(), []
    ask(server.port, 1e6, 1, "--max-concurrency", a.clients)  # the weights are mapped and read once
    for i in range(TRIES):
        m, stayed = watched(calibration.hop_ns, ask, server.port, 1e6, 2 + i, "--max-concurrency", a.clients)
        runs += [m["requests_per_s"]] if stayed else []
        if len(runs) == 3:
            break
    server.stop()
    if not runs:
        return None
    rate = statistics.median(runs)
    foreseen = calibration.simulate(f"arrivals: closed, clients: {a.clients}")["requests_per_s"]
    print(f"cores {calibration.hop_ns:.0f} ns apart: capacity, {a.clients} at once: measured {rate:.2f} requests/s, "
          f"predicted {foreseen:.2f} ({100 * (foreseen / rate - 1):+.1f}%)", flush=True)
    capacities.append((calibration.probe, rate))
    return rate


# --- all of it --------------------------------------------------------------------------------------------------

keep_awake()
source = a.trace
if not source:
    source = os.path.join(work, "made-up.jsonl")
    made_up(source)
trace, longest, span_s, n_times = slice_of(source)
a.rows = sum(1 for l in open(trace)) - trace.endswith(".csv")
native = a.rows / span_s
limits = probe()
print(f"{limits['cpu']}, {limits['threads']} threads, {limits['read_gbs']:.1f} GB/s read, {limits['fma_gflops']:.0f} GFLOP/s")
missed, kept = 0, []
for nth, load in enumerate(a.loads):
    runs = []
    capacities.clear()
    for i in range(a.runs):
        m = measure(load, i)
        log(f"{load}: {json.dumps(m)}")
        runs += [m] if m else []
    if nth == 0:
        print(f"{os.path.basename(source)}, rows {a.first} to {a.first + a.rows - 1}, lengths divided by {divisor:.2f}; {n_times} arrival times: bursts are kept")
        print(f"{'load':>4} {'':14} {'predicted':>10} {'measured':>10} {'of runs':>19} {'error':>7}  bar")
    if not runs:
        missed += 1
        print(f"{load:4} not measured: the machine changed in every run")
        continue
    for key in ("tokens_per_s", "tpot_ms", "tpot_p50_ms", "ttft_p50_ms", "ttft_p90_ms"):
        values, bar = [r[key] for r in runs], 0.25 if key.startswith("ttft") and load > 0.7 else 0.1
        error = statistics.median(r["foreseen"][key] / r[key] - 1 for r in runs)
        missed += abs(error) > bar
        print(f"{load:4} {key:14} {statistics.median(r['foreseen'][key] for r in runs):10.2f} {statistics.median(values):10.2f} "
              f"{min(values):9.2f}{max(values):10.2f} {100 * error:+6.1f}%  {100 * bar:.0f}% {'reached' if abs(error) <= bar else 'MISSED'}")
    error = statistics.median(r["replayed"]["ttft_p90_ms"] / r["ttft_p90_ms"] - 1 for r in runs)
    missed += abs(error) > 0.05
    print(f"{load:4} {'replayed p90':14} {'':41} {100 * error:+6.1f}%  5% {'reached' if abs(error) <= 0.05 else 'MISSED'}")
    for key, unit in (("read_gbs", "GB/s read"), ("fma_gflops", "GFLOP/s"), ("hop_ns", "ns from core to core")):
        probes = [p[key] for r in runs for p in r["probes"]]
        print(f"     {min(probes):.0f} to {max(probes):.0f} {unit}", flush=True)
    kept.append({"load": load, "runs": runs})
    if a.json:
        json.dump(kept, open(a.json, "w"), indent=1)
sys.exit(missed > 0)
