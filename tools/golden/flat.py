#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Converts a golden case to one flat file that a C program reads without JSON, safetensors or any
library.

    flat.py CASE OUT

For the forward pass on machines for which no third-party library is at hand (aarch64 under qemu).
The file is text up to the line `end`, then data; every line is words with single spaces between
them:

    supernode-flat 1
    config KEY NUMBER
    tensor NAME TYPE ROWS COLS DATA SCALES
    expect NAME TYPE ROWS COLS DATA
    end

There is a `config` line for each field of struct model_config (src/model/config.h), in its order,
nested ones as rotary.dim, enums and bools as their integer. A `tensor` has its name from the
checkpoint; TYPE is F32, BF16, F16 or F8; a vector has 1 row. DATA and SCALES count bytes from the
start of the file and are multiples of 64; SCALES is 0 unless TYPE is F8, else it leads to F32
[ceil(ROWS/128), ceil(COLS/128)]. `expect` has ids and greedy (I32, 1 row), logits and, with MTP,
mtp_logits (F32).

All numbers little-endian. An MTP layer without embedding and head of its own has no line for them,
as its checkpoint. Needs the standard library only.
"""

import json
import math
import os
import sys

from tensorfile import Tensor, read_checkpoint, read_file

TYPES = {"F32": "F32", "BF16": "BF16", "F16": "F16", "F8_E4M3": "F8", "I32": "I32"}
ALIGN = 64


def mscale(factor, m):
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_of(c):
    """(struct ops_rope_config as a dict, factor of the softmax scale)"""
    r = dict(c.get("rope_parameters") or c.get("rope_scaling") or {})
    theta = r.get("rope_theta", c.get("rope_theta", 10000.0))
    yarn = r.get("rope_type", r.get("type")) == "yarn"
    out = {"dim": c["qk_rope_head_dim"], "theta": theta, "yarn": int(yarn)}
    factor, m, all_dim = r.get("factor", 1.0), r.get("mscale"), r.get("mscale_all_dim")
    cos_sin = 1.0
    if yarn:
        cos_sin = (
            mscale(factor, m) / mscale(factor, all_dim) if m and all_dim else mscale(factor, 1.0)
        )
    out.update(factor=factor, beta_fast=r.get("beta_fast", 32), beta_slow=r.get("beta_slow", 1))
    out["original_positions"] = r.get(
        "original_max_position_embeddings", c.get("max_position_embeddings", 0)
    )
    out.update(truncate=int(r.get("truncate", True)), cos_sin_scale=cos_sin)
    return out, mscale(factor, all_dim) ** 2 if yarn and all_dim else 1.0


def gate_of(c, v3):
    """struct ops_gate_config as a dict. DeepSeek-V2 leaves the factor out when it divides by the
    sum.
    """

    def get(key, of_v3, of_v2):
        return c.get(key, of_v3 if v3 else of_v2)

    divide = get("norm_topk_prob", True, False)
    grouped = v3 or c.get("topk_method") == "group_limited_greedy"
    return {
        "score": 0 if v3 else 1,  # sigmoid, softmax
        "group": (2 if v3 else 1) if grouped else 0,  # the two largest, the largest, none
        "n_experts": c["n_routed_experts"],
        "n_groups": get("n_group", 8, 1) or 1,
        "topk_groups": get("topk_group", 4, 1) or 1,
        "top_k": get("num_experts_per_tok", 8, 0),
        "normalize": int(divide),
        "weight_scale": 1.0 if divide and not v3 else get("routed_scaling_factor", 2.5, 1.0),
    }


def config_of(c, tensors):
    """[(key, number)] in the order of struct model_config."""
    v3 = c["model_type"] == "deepseek_v3"
    rotary, softmax_factor = rope_of(c)
    qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    out = {
        "vocab": c["vocab_size"],
        "hidden": c["hidden_size"],
        "n_layers": c["num_hidden_layers"],
        "n_mtp": int(f"model.layers.{c['num_hidden_layers']}.eh_proj.weight" in tensors),
        "n_heads": c["num_attention_heads"],
        "q_lora": c["q_lora_rank"] or 0,
        "kv_lora": c["kv_lora_rank"],
        "nope": c["qk_nope_head_dim"],
        "rope": c["qk_rope_head_dim"],
        "v_dim": c["v_head_dim"],
        "dense_inter": c["intermediate_size"],
        "first_dense": c.get("first_k_dense_replace", 3 if v3 else 0),
        "moe_freq": c.get("moe_layer_freq", 1),
        "n_experts": c["n_routed_experts"],
        "n_shared": c.get("n_shared_experts", 1 if v3 else 2) or 0,
        "moe_inter": c["moe_intermediate_size"],
        "tied": int(c.get("tie_word_embeddings", False)),
        "eps": c.get("rms_norm_eps", 1e-6),
        "attn_scale": qk**-0.5 * softmax_factor,
        "max_positions": c["max_position_embeddings"],
    }
    out.update({"rotary." + k: x for k, x in rotary.items()})
    out["rope_pairs"] = int(c.get("rope_interleave") is False)
    out.update({"gate." + k: x for k, x in gate_of(c, v3).items()})
    return list(out.items())


def flatten(case):
    with open(os.path.join(case, "config.json")) as f:
        config = json.load(f)
    tensors = read_checkpoint(case)
    blobs, size = [], 0  # (offset in the data, bytes)

    def place(data):
        nonlocal size
        at = size
        blobs.append((at, data))
        size = -(-(at + len(data)) // ALIGN) * ALIGN
        return at

    lines = []  # ([words before the offsets], [offsets in the data, None for 0])
    for name in sorted(tensors):
        t = tensors[name]
        if name.endswith("_scale_inv"):
            continue
        rows, cols = t.shape if len(t.shape) == 2 else (1, t.shape[0])
        scale = tensors.get(name + "_scale_inv", Tensor("F32", [], None))
        assert scale.dtype == "F32"
        offsets = [place(t.data), place(scale.data) if scale.data is not None else None]
        lines.append((["tensor", name, TYPES[t.dtype], rows, cols], offsets))
    for name, t in read_file(os.path.join(case, "expect.safetensors")).items():
        rows, cols = t.shape if len(t.shape) == 2 else (1, t.shape[0])
        lines.append((["expect", name, TYPES[t.dtype], rows, cols], [place(t.data)]))

    def header(base):
        text = ["supernode-flat 1"]
        text += [f"config {key} {x:.17g}" for key, x in config_of(config, tensors)]
        for words, offsets in lines:
            text.append(
                " ".join(str(w) for w in words + [0 if x is None else base + x for x in offsets])
            )
        return ("\n".join(text) + "\nend\n").encode()

    base = 0
    while base < len(header(base)):  # longer offsets make a longer header
        base += ALIGN
    out = bytearray(base + size)
    out[: len(header(base))] = header(base)
    for at, data in blobs:
        out[base + at : base + at + len(data)] = data
    return bytes(out)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data = flatten(sys.argv[1])
    with open(sys.argv[2], "wb") as f:
        f.write(data)


if __name__ == "__main__":
    main()
