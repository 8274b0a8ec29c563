#!/usr/bin/env python3
"""What a long prompt does to others, and what the prefix cache saves, measured over sockets on a running server:
bench/streams.py PORT. One JSON line: TTFT of a 4,096-token prompt asked twice; TPOT p99 of eight running streams, without
and with an 8k prompt computed beside them. Streams are read by threads that note when each event came."""
import http.client, json, random, sys, threading, time

port = int(sys.argv[1])
rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)


def ids(n):
    return [rng.randrange(10, 4000) for _ in range(n)]


def stream(prompt, n, times):
    c = http.client.HTTPConnection("127.0.0.1", port)
    body = {"prompt": prompt, "max_tokens": n, "ignore_eos": True, "stream": True, "temperature": 0, "logprobs": 0}
    c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    begun = time.monotonic()
    r = c.getresponse()
    assert r.status == 200, r.read()
    for line in r:
        if line.startswith(b"data: {"):
            times.append(time.monotonic() - begun)
    c.close()


def ttft(prompt):
    times = []
    stream(prompt, 1, times)
    return times[0]


def p99(gaps):
    return sorted(gaps)[min(len(gaps) - 1, int(len(gaps) * 0.99))]


def background(n_tokens, n=8):
    all_times = [[] for _ in range(n)]
    threads = [threading.Thread(target=stream, args=(ids(64), n_tokens, t)) for t in all_times]
    for t in threads:
        t.start()
    return threads, all_times, time.monotonic()


def gaps_between(all_times, base, begin, end):
    """Gaps of tokens that came between two moments, in every stream."""
    out = []
    for times in all_times:
        out += [b - a for a, b in zip(times, times[1:]) if begin <= base + a and base + b <= end]
    return out


ttft(ids(64))  # the weights are read once
prompt = ids(4096)
first, again = ttft(prompt), ttft(prompt)
threads, times, base = background(600)
while min(map(len, times)) < 10:
    time.sleep(0.01)
begin = time.monotonic()
while min(map(len, times)) < 50:
    time.sleep(0.01)
quiet = gaps_between(times, base, begin, time.monotonic())
begin = time.monotonic()
long = ttft(ids(8000)) if "--no-long" not in sys.argv else 0
end = time.monotonic()
busy = gaps_between(times, base, begin, end)
for t in threads:
    t.join()
print(json.dumps({"ttft_4096_s": first, "ttft_4096_again_s": again, "ttft_ratio": first / again,
                  "tpot_p99_quiet_s": p99(quiet), "tpot_p99_prefill_s": p99(busy), "tpot_ratio": p99(busy) / p99(quiet),
                  "quiet_gaps": len(quiet), "prefill_gaps": len(busy), "ttft_8000_s": long,
                  "mean_quiet_s": sum(quiet) / len(quiet), "mean_prefill_s": sum(busy) / max(1, len(busy)), "max_prefill_s": max(busy, default=0)}))
