# SPDX-License-Identifier: Apache-2.0
"""A short run of tests/soak/soak.py, which says what it checks; `make soak` is the long one."""
import os, subprocess, sys

ROOT = os.environ.get("SUPERNODE_ROOT", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SUPERNODE_BIN", os.path.join(ROOT, "build/supernode"))


def test_bad_clients_lose_nothing_and_leave_nothing():
    p = subprocess.run([sys.executable, os.path.join(ROOT, "tests/soak/soak.py"), "--bin", BIN, "--seconds", "15"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=400)
    print(p.stdout)
    assert p.returncode == 0, p.stdout
