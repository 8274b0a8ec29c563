# SPDX-License-Identifier: Apache-2.0
"""Random weights of a DeepSeek-family checkpoint, under the names and in the types of published
files.

One list (`tensors`) says every name and shape that a config implies; `draw` fills it from a seed,
`store` rounds it to the types of the file and `widen` gives back, exactly, the float32 values that
such a file means. The model of the oracle is built from `widen(store(...))`, so rounding to BF16,
F16 or FP8 is never part of a comparison.

Sources: README_WEIGHTS.md of deepseek-ai/DeepSeek-V3 (names, FP8 blocks, MTP layer), transformers'
DeepseekV2 and V3.
"""

import json
import math
import os

import torch
from safetensors.torch import save_file

BLOCK = 128  # FP8: one scale for 128 x 128 values, the last row and column of blocks ragged
FP8_MAX = 448.0

# Gains over 1/sqrt(fan in). Larger than a trained model's first steps, so that every part moves the
# logits: attention is far from uniform, and experts differ.
GAIN = {
    "q": 1.4,
    "kv_a": 1.0,
    "kv_b": 1.2,
    "o": 1.0,
    "ffn": 1.3,
    "router": 1.5,
    "head": 1.0,
    "eh": 1.0,
}


def is_moe(cfg, layer):
    """DeepSeek's rule, with moe_layer_freq, which transformers does not know. The MTP layer is
    always MoE.
    """
    if layer >= cfg.num_hidden_layers:
        return True
    return layer >= cfg.first_k_dense_replace and layer % getattr(cfg, "moe_layer_freq", 1) == 0


def _mlp(prefix, hidden, inner):
    return [
        (prefix + "gate_proj.weight", (inner, hidden), "ffn"),
        (prefix + "up_proj.weight", (inner, hidden), "ffn"),
        (prefix + "down_proj.weight", (hidden, inner), "ffn"),
    ]


def _attention(p, cfg):
    h, heads = cfg.hidden_size, cfg.num_attention_heads
    qk = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim
    if cfg.q_lora_rank is None:
        out = [(p + "q_proj.weight", (heads * qk, h), "q")]
    else:
        out = [
            (p + "q_a_proj.weight", (cfg.q_lora_rank, h), "kv_a"),
            (p + "q_a_layernorm.weight", (cfg.q_lora_rank,), "norm"),
            (p + "q_b_proj.weight", (heads * qk, cfg.q_lora_rank), "q"),
        ]
    return out + [
        (p + "kv_a_proj_with_mqa.weight", (cfg.kv_lora_rank + cfg.qk_rope_head_dim, h), "kv_a"),
        (p + "kv_a_layernorm.weight", (cfg.kv_lora_rank,), "norm"),
        (
            p + "kv_b_proj.weight",
            (heads * (cfg.qk_nope_head_dim + cfg.v_head_dim), cfg.kv_lora_rank),
            "kv_b",
        ),
        (p + "o_proj.weight", (h, heads * cfg.v_head_dim), "o"),
    ]


def _layer(p, cfg, moe):
    h = cfg.hidden_size
    out = _attention(p + "self_attn.", cfg)
    out.append((p + "input_layernorm.weight", (h,), "norm"))
    out.append((p + "post_attention_layernorm.weight", (h,), "norm"))
    if not moe:
        return out + _mlp(p + "mlp.", h, cfg.intermediate_size)
    out.append((p + "mlp.gate.weight", (cfg.n_routed_experts, h), "router"))
    if cfg.model_type == "deepseek_v3":
        out.append((p + "mlp.gate.e_score_correction_bias", (cfg.n_routed_experts,), "bias"))
    for e in range(cfg.n_routed_experts):
        out += _mlp(f"{p}mlp.experts.{e}.", h, cfg.moe_intermediate_size)
    if not cfg.n_shared_experts:
        return out
    return out + _mlp(
        p + "mlp.shared_experts.", h, cfg.moe_intermediate_size * cfg.n_shared_experts
    )


def tensors(cfg, mtp=None):
    """[(name, shape, kind)]; mtp is None, "shared" (embedding and head of the main model) or
    "copies" (its own copies of both in the file, as the published V3 files have them).
    """
    h = cfg.hidden_size
    out = [("model.embed_tokens.weight", (cfg.vocab_size, h), "embed")]
    for i in range(cfg.num_hidden_layers):
        out += _layer(f"model.layers.{i}.", cfg, is_moe(cfg, i))
    out.append(("model.norm.weight", (h,), "norm"))
    if not cfg.tie_word_embeddings:
        out.append(("lm_head.weight", (cfg.vocab_size, h), "head"))
    if mtp:
        p = f"model.layers.{cfg.num_hidden_layers}."
        out += _layer(p, cfg, True)
        out += [(p + f"{n}.weight", (h,), "norm") for n in ("enorm", "hnorm", "shared_head.norm")]
        out.append((p + "eh_proj.weight", (h, 2 * h), "eh"))
    if mtp == "copies":
        out.append(
            (p + "embed_tokens.weight", (cfg.vocab_size, h), "copy:model.embed_tokens.weight")
        )
        out.append((p + "shared_head.head.weight", (cfg.vocab_size, h), "copy:lm_head.weight"))
    return out


def draw(cfg, case, seed):
    """{name: float32 tensor}. case["latent_gain"] shrinks the inputs of q_a_layernorm and
    kv_a_layernorm until their epsilon shows; case["bias"] is (mean, deviation) of the correction
    bias.
    """
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape, kind in tensors(cfg, case["mtp"]):
        x = torch.randn(shape, generator=g)
        if kind.startswith("copy:"):
            x = out[kind[5:]]
        elif kind == "norm":
            x = 1 + 0.3 * x
        elif kind == "bias":
            x = case["bias"][0] + case["bias"][1] * x
        elif kind == "embed":
            x = x * (
                0.3 if cfg.tie_word_embeddings else 1.0
            )  # tied: else each token predicts itself
        else:
            x = x * (GAIN[kind] / math.sqrt(shape[1]))
            if kind == "kv_a":
                x[: cfg.kv_lora_rank if "kv_a" in name else None] *= case["latent_gain"]
        out[name] = x
    return out


def _quantise(x, scales_are_powers):
    """x [n, k] -> (codes e4m3 [n, k], scale F32 [ceil(n/128), ceil(k/128)]), value = code *
    scale.
    """
    rows, cols = -(-x.shape[0] // BLOCK), -(-x.shape[1] // BLOCK)
    scale = torch.empty(rows, cols)
    code = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
    for r in range(rows):
        for c in range(cols):
            part = (slice(r * BLOCK, (r + 1) * BLOCK), slice(c * BLOCK, (c + 1) * BLOCK))
            s = x[part].abs().max() / FP8_MAX
            if scales_are_powers:
                s = torch.exp2(torch.ceil(torch.log2(s)))
            scale[r, c] = s
            code[part] = (x[part] / s).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return code, scale


def store(cfg, case, values):
    """{name: tensor as the file holds it}; an FP8 matrix brings its `_scale_inv`."""
    plain = {
        "F32": torch.float32,
        "BF16": torch.bfloat16,
        "F16": torch.float16,
        "FP8": torch.bfloat16,
    }
    kinds = {name: kind for name, _, kind in tensors(cfg, case["mtp"])}
    quantised = ("q", "kv_a", "kv_b", "o", "ffn")
    out = {}
    for name, x in values.items():
        if case["dtype"] == "FP8" and kinds[name] in quantised:
            out[name], out[name + "_scale_inv"] = _quantise(x, case["ue8m0"])
        elif kinds[name] == "bias":
            out[name] = x.to(plain[case["bias_dtype"]])
        else:
            out[name] = x.to(plain[case["dtype"]]).clone()
    return out


def widen(stored):
    """The float32 values of a checkpoint, {name: tensor}; scales are multiplied in, exactly once,
    in float32.
    """
    out = {}
    for name, x in stored.items():
        if name.endswith("_scale_inv"):
            continue
        y = x.to(torch.float32)
        s = stored.get(name + "_scale_inv")
        if s is not None:
            y = (
                y
                * s.repeat_interleave(BLOCK, 0)[: y.shape[0]].repeat_interleave(BLOCK, 1)[
                    :, : y.shape[1]
                ]
            )
        out[name] = y
    return out


def write(folder, stored, shards):
    """model.safetensors, or `shards` files and their index. Tensors are dealt out round robin over
    the sorted names, so that a matrix and its scale, neighbours by name, always lie in different
    files.
    """
    if shards == 1:
        save_file(stored, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    index = {"metadata": {"total_size": sum(x.nbytes for x in stored.values())}, "weight_map": {}}
    parts = [{} for _ in range(shards)]
    for i, name in enumerate(sorted(stored)):
        parts[i % shards][name] = stored[name]
        index["weight_map"][name] = f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors"
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, os.path.join(folder, file), metadata={"format": "pt"})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=2, sort_keys=True)
        f.write("\n")
