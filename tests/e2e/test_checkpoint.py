# SPDX-License-Identifier: Apache-2.0
"""Strangers' checkpoints through the binary: one sentence and exit 1 for what is wrong with a folder, no crash for what is wrong
with its numbers, and the identity that `info` shows."""

import json
import os
import shutil
import struct
import subprocess

import pytest

BINARY = os.environ["SUPERNODE_BIN"]
GOLDEN = os.path.join(os.environ["SUPERNODE_ROOT"], "tests/golden")


def supernode(*words, env=None):
    return subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=120, env=dict(os.environ, **(env or {})))


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "checkpoint"
    shutil.copytree(os.path.join(GOLDEN, "v3-mtp"), out)
    return out


def set_config(folder, **over):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | over))


REFUSALS = [
    (
        {"architectures": ["LlamaForCausalLM"]},
        "config.json: architecture LlamaForCausalLM is not supported (DeepseekV3ForCausalLM, DeepseekV2ForCausalLM are)",
    ),
    ({"hidden_act": "gelu"}, "config.json: hidden_act: found gelu, only silu is supported"),
    ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers: 1000000000, expected 1 to 1024"),
    (
        {"n_routed_experts": 16},
        "model.safetensors: tensor model.layers.2.mlp.gate.weight: shape [8,38], expected [16,38] (n_routed_experts, hidden_size)",
    ),
    ({"quantization_config": {"quant_method": "awq"}}, "config.json: quantization_config.quant_method: found awq, only fp8 is supported"),
]


@pytest.mark.parametrize("over, sentence", REFUSALS)
def test_a_refusal_is_one_sentence(folder, over, sentence):
    set_config(folder, **over)
    for words in ["info", str(folder)], ["logits", str(folder), "--ids", "1,2", "--out", str(folder / "out")], ["generate", str(folder), "--ids", "1"]:
        done = supernode(*words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"supernode: {folder}/{sentence}\n")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x80, 0x00])
@pytest.mark.parametrize("case", ["v3-mtp", "v3-fp8", "v2-236b"])
def test_weights_may_be_any_numbers(case, byte, tmp_path):
    """NaN, huge, negative zero, zero: the answer is nonsense, the program is not."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(os.path.join(GOLDEN, case), folder)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + struct.unpack_from("<Q", raw)[0]
    raw[start:] = bytes([byte]) * (len(raw) - start)
    (folder / "model.safetensors").write_bytes(raw)
    done = supernode("logits", str(folder), "--ids", "1,2,3", "--out", str(folder / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    for flags in ["--temperature", "0"], ["--temperature", "1", "--top-p", "0.5", "--top-k", "3", "--min-p", "0.1"]:
        done = supernode("generate", str(folder), "--ids", "1,2,3", "--max-tokens", "4", "--ignore-eos", "--json", "--seed", "1", "--logprobs", "2", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["ids"]) == 4


def identity(folder):
    done = supernode("info", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    return info["weights_id"], info["weights_id_from"], info["model_id"]


def test_identity_by_samples_by_file_and_by_kv_type(folder):
    weights, how, model = identity(folder)
    assert how == "samples"
    done = supernode("info", str(folder), "--json", "--kv-dtype", "f32")
    other = json.loads(done.stdout)
    assert other["weights_id"] == weights and other["model_id"] != model
    assert supernode("info", str(folder), "--write-sha256").returncode == 0
    stored = identity(folder)
    assert stored[1] == "sha256 file" and stored[0] != weights
    with open(folder / "model.safetensors", "r+b") as f:  # a fine-tune
        f.seek(-1, os.SEEK_END)
        last = f.read(1)[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last ^ 1]))
    changed = identity(folder)
    assert changed[1] == "samples" and changed[0] not in (weights, stored[0])


def test_a_hub_id_is_found_in_the_cache(folder, tmp_path):
    repo = tmp_path / "hub/models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("ab12")
    shutil.move(folder, repo / "snapshots/ab12")
    done = supernode("info", "org/tiny", "--json", env={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert done.returncode == 0 and json.loads(done.stdout)["mtp_layers"] == 1
    done = supernode("info", "org/other", env={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert done.returncode == 1
    assert done.stderr == f"supernode: org/other: no such directory, and not in the Hugging Face cache ({tmp_path}/hub)\n"
