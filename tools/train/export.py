# SPDX-License-Identifier: Apache-2.0
"""Writes a training state as a Hugging Face checkpoint, and reads one back.

BF16 except the gate's correction bias (F32), which is shifted so that its minimum is 0: the choice of experts does not
change, and implementations that mask a dropped group with 0 instead of -inf choose the same ones. The MTP layer is
`model.layers.6.*`; embedding and head are not stored twice.

    python tools/train/export.py --run /tmp/tiny-run --out models/tiny
"""
import argparse
import json
import pathlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import model as M

TOP = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "norm": "model.norm.weight"}
MTP = {"enorm": "enorm", "hnorm": "hnorm", "mtp_norm": "shared_head.norm", "eh_proj": "eh_proj"}
ATTENTION = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
GENERATION = {
    "bos_token_id": 0,
    "do_sample": True,
    "eos_token_id": 1,
    "max_new_tokens": 600,
    "pad_token_id": 2,
    "repetition_penalty": 1.05,
    "temperature": 0.8,
    "top_p": 0.9,
}


def hf_name(name):
    """The checkpoint's name of one of the model's tensors; None for the stacked experts."""
    if name in TOP:
        return TOP[name]
    if name in MTP:
        return f"model.layers.{M.C['num_hidden_layers']}.{MTP[name]}.weight"
    _, i, leaf = name.split(".")
    layer = f"model.layers.{i}."
    if leaf in ATTENTION:
        return f"{layer}self_attn.{leaf}.weight"
    if leaf.endswith("layernorm"):
        return f"{layer}{leaf}.weight"
    if leaf == "gate":
        return f"{layer}mlp.gate.weight"
    if leaf == "bias":
        return f"{layer}mlp.gate.e_score_correction_bias"
    if leaf in ("gate_proj", "up_proj", "down_proj"):
        shared = "" if int(i) < M.C["first_k_dense_replace"] else "shared_experts."
        return f"{layer}mlp.{shared}{leaf}.weight"
    return None


def expert_names(name):
    """For a stacked tensor: the names of its parts, in order."""
    layer = ".".join(name.split(".")[:2])
    kinds = ("gate_proj", "up_proj") if name.endswith("gate_up") else ("down_proj",)
    return [f"model.{layer}.mlp.experts.{e}.{k}.weight" for e in range(M.EXPERTS) for k in kinds]


def to_hf(state):
    out = {}
    for name, t in state.items():
        to = hf_name(name)
        if to is None:
            parts = t.view(-1, M.C["moe_intermediate_size"], M.H) if name.endswith("gate_up") else t
            out.update((n, p.to(torch.bfloat16).contiguous()) for n, p in zip(expert_names(name), parts, strict=True))
        elif name.endswith(".bias"):
            out[to] = (t - t.min()).float()
        else:
            out[to] = t.to(torch.bfloat16).contiguous()
    return out


def load(path):
    """The training model with a checkpoint's weights, float32."""
    model = M.Model()
    with safe_open(pathlib.Path(path, "model.safetensors"), "pt") as f:
        state = {}
        for name, t in model.state_dict().items():
            to = hf_name(name)
            parts = [f.get_tensor(to)] if to else [f.get_tensor(n) for n in expert_names(name)]
            state[name] = torch.cat([p.float() for p in parts]).view(t.shape)
    model.load_state_dict(state)
    return model


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--run", required=True)
    ap.add_argument("--out", default="models/tiny")
    args = ap.parse_args()
    out = pathlib.Path(args.out)
    state = torch.load(pathlib.Path(args.run, "state.pt"), weights_only=False)
    tensors = to_hf(state["model"])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config", M.CONFIG), ("generation_config", GENERATION)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    size = sum(p.stat().st_size for p in out.iterdir())
    print(f"step {state['step']}, {state['tokens'] / 1e6:.1f} M tokens, progress {state['progress']:.3f}: "
          f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M parameters, "
          f"{size / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
