# SPDX-License-Identifier: Apache-2.0
"""The same bits on Arm: the forward pass (tests/arm/forward.c, no third-party library) over golden cases, natively and under
qemu-aarch64, with every kernel table of either machine. The bits it writes must be equal, and near the oracle's."""

import os
import re
import shutil
import subprocess

import pytest

ROOT = os.environ["SUPERNODE_ROOT"]
CASES = ["v3-mtp", "v3-fp8", "v3-f16", "v2-lite"]
TOOLS = ["aarch64-linux-gnu-gcc", "qemu-aarch64"]
MISSING = [t for t in TOOLS if not shutil.which(t)]
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")


def command(*words, timeout=600):
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=timeout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def programs():
    """(native, Arm), built by the Makefile."""
    native, arm = "build/tests/arm/forward", "build/aarch64/tests/arm/forward"
    make = ["make", "--no-print-directory", "-j2"]
    command(*make, native)
    command(*make, "CROSS=aarch64", arm)
    return os.path.join(ROOT, native), os.path.join(ROOT, arm)


def run_forward(program, flat, out, tables):
    """What it wrote, after a look at what it said."""
    said = command(*program, str(flat), str(out))
    assert "not ok" not in said
    assert len(re.findall(r"^ok ", said, re.M)) == int(re.search(r"^1\.\.(\d+)$", said, re.M)[1]) >= 2 + 4 * len(tables)
    for table in tables:
        assert re.search(rf"^ok \d+ - {table}: ", said, re.M), f"{table} did not run"
    return out.read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_forward_pass_gives_the_same_bits(name, programs, tmp_path):
    native, arm = programs
    flat = tmp_path / "case.flat"
    command("python3", "tools/golden/flat.py", os.path.join("tests/golden", name), str(flat))
    here = run_forward([native], flat, tmp_path / "native", ["ref"])
    there = run_forward([*QEMU, arm], flat, tmp_path / "arm", ["neon", "ref"])
    assert here == there
    assert any(here)


def test_operators_give_the_recorded_bits():
    said = command("make", "--no-print-directory", "-j2", "arm")
    assert "not ok" not in said and re.search(r"^ok \d+ - .*neon$", said, re.M)
