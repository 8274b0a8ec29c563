#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the product on golden cases and compares.

    check.py build/supernode tests/golden [MORE...]

Each argument after the binary is a case or a folder of cases. A case passes if `logits` (and
`mtp_logits`, where there is MTP, and only there) differ from the expected ones by at most 1e-4 of
the largest of them, and if `generate` at temperature 0 gives the same 64 tokens. KV rows are F32 in
both runs. Needs the standard library only.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

from tensorfile import read_file

TOLERANCE = 1e-4
TIMEOUT_S = 120


class Failed(Exception):
    pass


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[1]}: no answer in {TIMEOUT_S} s")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing on stderr"]
        raise Failed(f"{command[1]}: exit {done.returncode}: {said[-1]}")
    return done.stdout.decode()


def compare(name, want, got):
    """The largest difference as a share of the largest expected |value|."""
    if got is None:
        raise Failed(f"{name}: absent, expected {want.shape}")
    if got.dtype != "F32" or list(got.shape) != list(want.shape):
        raise Failed(f"{name}: {got.dtype} {got.shape}, expected F32 {want.shape}")
    a, b = want.numbers(), got.numbers()
    largest = max(abs(x) for x in a)
    off = [abs(x - y) / largest for x, y in zip(a, b)]
    at = next((i for i, x in enumerate(off) if math.isnan(x)), None)  # max() would walk past a NaN
    if at is None:
        at = off.index(max(off))
    if not off[at] <= TOLERANCE:
        row, column = divmod(at, want.shape[1])
        raise Failed(
            f"{name}[{row}, {column}]: {b[at]:.7g}, expected {a[at]:.7g}, "
            f"off by {off[at]:.1e} of the largest"
        )
    return off[at]


def check_logits(binary, case, ids, expect):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.safetensors")
        run([binary, "logits", case, "--ids", ids, "--kv-dtype", "f32", "--out", out])
        got = read_file(out)
    if "mtp_logits" in got and "mtp_logits" not in expect:
        raise Failed("mtp_logits: present, but this checkpoint has no MTP layer")
    names = [n for n in ("logits", "mtp_logits") if n in expect]
    return ", ".join(f"{n} off by {compare(n, expect[n], got.get(n)):.1e}" for n in names)


def check_greedy(binary, case, ids, expect):
    want = list(expect["greedy"].numbers())
    command = [
        binary,
        "generate",
        case,
        "--ids",
        ids,
        "--max-tokens",
        str(len(want)),
        "--temperature",
        "0",
    ]
    text = run(command + ["--ignore-eos", "--kv-dtype", "f32", "--json"])
    try:
        got = json.loads(text)["ids"]
    except (ValueError, KeyError, TypeError):
        raise Failed(f"generate: no JSON object with ids on stdout: {text[:80]!r}")
    if got != want:
        same = next(
            (i for i, (x, y) in enumerate(zip(want, got)) if x != y), min(len(want), len(got))
        )
        here, there = (x[same] if same < len(x) else "an end" for x in (got, want))
        raise Failed(f"generate: token {same} is {here}, expected {there}")
    return f"{len(want)} greedy tokens"


def check(binary, case):
    expect = read_file(os.path.join(case, "expect.safetensors"))
    ids = ",".join(str(i) for i in expect["ids"].numbers())
    return check_logits(binary, case, ids, expect) + ", " + check_greedy(binary, case, ids, expect)


def cases_in(folder):
    if os.path.exists(os.path.join(folder, "config.json")):
        return [folder]
    if not os.path.isdir(folder):
        return []
    found = [os.path.join(folder, n) for n in sorted(os.listdir(folder))]
    return [c for c in found if os.path.exists(os.path.join(c, "config.json"))]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    binary = sys.argv[1]
    passed = failed = 0
    for folder in sys.argv[2:]:
        found = cases_in(folder)
        if not found:
            print(f"FAILED {folder}: no case in it")
            failed += 1
        for case in found:
            name = os.path.basename(os.path.normpath(case))
            try:
                print(f"passed {name}: {check(binary, case)}", flush=True)
                passed += 1
            except (Failed, OSError, ValueError, KeyError) as e:
                print(f"FAILED {name}: {e}", flush=True)
                failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
