# SPDX-License-Identifier: Apache-2.0
"""What a cluster's parts hold in memory: weights that workers of one host share, and tenants that keep to their quota."""
import os, re, signal, subprocess

from test_cluster import Cluster
from test_serve import BIN
from test_serving import wait_for


def mappings(pid, suffix):
    """Its mappings of files with this ending: (rights, {"Rss": bytes, ...}) each."""
    with open(f"/proc/{pid}/smaps") as f:
        parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", f.read())
    for part in parts:
        head, _, rest = part.partition("\n")
        if head.endswith(suffix):
            yield head.split()[1], {k: int(v) << 10 for k, v in re.findall(r"^(\w+): +(\d+) kB$", rest, re.M)}


def test_workers_of_one_host_share_the_mapped_weights():
    c = Cluster(pool=0)
    try:
        assert c.complete(prompt=[5, 6, 7] * 100, seed=1, max_tokens=5)[0] == 200  # both have read them now
        for name in ("p0", "d0"):
            found = list(mappings(c.member(name)["pid"], ".safetensors"))
            assert found
            rss, pss = (sum(m[k] for _, m in found) for k in ("Rss", "Pss"))
            assert rss > 16 << 20 and pss < 0.6 * rss  # each counts for half, or less where others have them too
            assert all("w" not in rights and m["Anonymous"] == 0 and m["Private_Dirty"] == 0 for rights, m in found)
    finally:
        c.stop()


def test_a_tenant_keeps_to_its_quota_and_anothers_blocks_survive(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("sk-a alpha\nsk-b beta\n")
    keys.chmod(0o600)
    c = Cluster("--api-key-file", str(keys), pool=0)
    pool = subprocess.Popen([BIN, "pool", "--cluster", c.dir, "--name", "m0", "--dram", "4M", "--quota", "beta=1M"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def held(what="bytes_dram"):  # told several times a second
        m = c.member("m0")
        return m["load"][what] if m else 0

    def ask(key, token):
        status, _, body = c.complete_as(key, prompt=[token] * 1500, seed=1, max_tokens=2)  # 11 whole blocks
        assert status == 200
        return body

    try:
        wait_for(lambda: c.member("m0"), 20)
        first = ask("sk-a", 7)
        wait_for(lambda: held("pages_used") == 11, 20)
        mine = held()
        block = mine // 11
        for token in range(20, 28):  # beta would fill the pool twice over
            ask("sk-b", token)
            assert held() <= mine + (1 << 20)
        wait_for(lambda: held() > mine + (1 << 20) - block, 20)
        assert held() <= mine + (1 << 20)
        os.kill(c.member("p0")["pid"], signal.SIGKILL)  # what is found now is the pool's
        again = ask("sk-a", 7)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 11 * 128
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        theirs = ask("sk-b", 20)  # the first of eight: long gone
        assert theirs["usage"]["prompt_tokens_details"]["cached_tokens"] < 11 * 128
    finally:
        pool.terminate()
        assert pool.wait(30) == 0
        c.stop()
