#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Proves that the golden cases can fail: reads each case back from its files, checks that the
oracle gives the logits that are written there, then misreads the model on purpose, one way at a
time (`proves` in cases.py), and demands that the logits move by at least ten times what check.py
forgives.

    mutants.py [--dir tests/golden]
"""

import argparse
import copy
import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file

import weights
from cases import CASES
from make import HERE, distance
from reference import Oracle, routers

TOLERANCE = 1e-4


def _swap_pairs(config, values):
    """The rows of every rotated part in the other order: (2i, 2i+1) read as (i, i + dim/2), or the
    reverse.
    """
    rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    order = torch.arange(rope).view(2, -1).t().reshape(-1)
    if config.get("rope_interleave") is False:
        order = torch.arange(rope).view(-1, 2).t().reshape(-1)
    out = dict(values)
    for name, x in values.items():
        if name.endswith("kv_a_proj_with_mqa.weight"):
            out[name] = torch.cat([x[:-rope], x[-rope:][order]])
        if name.endswith(("q_proj.weight", "q_b_proj.weight")):
            heads = x.view(-1, nope + rope, x.shape[1])
            out[name] = torch.cat([heads[:, :nope], heads[:, nope:][:, order]], dim=1).reshape(
                x.shape
            )
    return config, out


def _theta(config, values):
    config = copy.deepcopy(config)
    (config if "rope_theta" in config else config["rope_parameters"])["rope_theta"] = 20000.0
    return config, values


def _betas(config, values):
    config = copy.deepcopy(config)
    config["rope_scaling"].update(beta_fast=32, beta_slow=1)
    return config, values


BEFORE = {"rope_pairs": _swap_pairs, "rope_theta": _theta, "beta_default": _betas}


def _no_yarn(o):
    rope = o.model.model.rotary_emb
    dim = o.cfg.qk_rope_head_dim
    rope.inv_freq = 1.0 / o.cfg.rope_parameters["rope_theta"] ** (
        torch.arange(0, dim, 2).float() / dim
    )


def _no_rope_mscale(o):
    o.model.model.rotary_emb.attention_scaling = 1.0


def _no_softmax_mscale(o):
    for layer in o.model.model.layers:
        layer.self_attn.scaling = layer.self_attn.qk_head_dim**-0.5


def _latent_eps(o):
    for layer in o.model.model.layers:
        for name in ("q_a_layernorm", "kv_a_layernorm"):
            norm = getattr(layer.self_attn, name)
            if norm is not None:
                norm.variance_epsilon = o.cfg.rms_norm_eps


def _eps(o):
    """model.py's one epsilon for all."""
    for module in o.model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-6


def _route(router, group_top=None, mask=float("-inf"), bias_in_weight=False, norm=None, scale=None):
    """A gate with one thing done otherwise; None takes what the model does."""
    v3 = hasattr(router, "e_score_correction_bias")

    def forward(hidden):
        logits = hidden.view(-1, hidden.shape[-1]) @ router.weight.t()
        score = logits.sigmoid() if v3 else logits.softmax(-1)
        choice = score + router.e_score_correction_bias if v3 else score
        if router.num_group and (v3 or router.topk_method == "group_limited_greedy"):
            groups = choice.view(len(choice), router.num_group, -1)
            top = group_top or (2 if v3 else 1)
            best = groups.topk(top, dim=-1).values.sum(-1).topk(router.topk_group, dim=-1).indices
            keep = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, best, True)
            masked = groups.masked_fill(~keep[..., None], mask).flatten(1)
        else:
            masked = choice
        chosen = masked.topk(router.top_k, dim=-1).indices
        weight = (choice if bias_in_weight else score).gather(1, chosen)
        divide = (v3 and router.norm_topk_prob) if norm is None else norm
        if divide:
            weight = weight / weight.sum(-1, keepdim=True)
        return logits, weight * (router.routed_scaling_factor if scale is None else scale), chosen

    return forward


def _gate(**change):
    def apply(o):
        for r in routers(o.model):
            r.forward = _route(r, **change)

    return apply


def _norm(o):
    for r in routers(o.model):
        v3 = hasattr(r, "e_score_correction_bias")
        r.forward = _route(r, norm=not (v3 and r.norm_topk_prob))


def _no_groups(o):
    for r in routers(o.model):
        r.num_group = r.topk_group = 1


def _mtp(wrong):
    def apply(o):
        right = o.mtp.forward
        if wrong == "before_norm":
            o.mtp.forward = lambda ids, h: right(ids, _unnormed(o, ids))
        elif wrong == "order":
            w = o.mtp.eh_proj.weight.data
            o.mtp.eh_proj.weight.data = torch.cat(w.chunk(2, dim=1)[::-1], dim=1)
        elif wrong == "no_last_norm":
            o.mtp.norm = torch.nn.Identity()
        elif wrong == "same_token":
            o.mtp.forward = lambda ids, h: right(torch.cat([ids[:1], ids[:-1]]), h)

    return apply


def _unnormed(o, ids):
    seen = []
    handle = o.model.model.norm.register_forward_hook(lambda m, x, y: seen.append(x[0][0]))
    with torch.no_grad():
        o.model.model(ids[None], use_cache=False)
    handle.remove()
    return seen[0]


AFTER = {
    "no_yarn": _no_yarn,
    "no_rope_mscale": _no_rope_mscale,
    "no_softmax_mscale": _no_softmax_mscale,
    "latent_eps": _latent_eps,
    "eps": _eps,
    "bias_in_weight": _gate(bias_in_weight=True),
    "mask_zero": _gate(mask=0.0),
    "group_max": _gate(group_top=1),
    "group_sum": _gate(group_top=2),
    "no_scaling": _gate(scale=1.0),
    "v2_hf_norm": _gate(norm=False),
    "norm": _norm,
    "no_groups": _no_groups,
    "mtp_before_norm": _mtp("before_norm"),
    "mtp_order": _mtp("order"),
    "mtp_no_last_norm": _mtp("no_last_norm"),
    "mtp_same_token": _mtp("same_token"),
}


def _one_scale(stored):
    return {n: x[:1, :1].expand_as(x) if n.endswith("_scale_inv") else x for n, x in stored.items()}


def off_by(expect, oracle):
    ids = expect["ids"].long()
    off = distance(expect["logits"], oracle.logits(ids))
    if "mtp_logits" in expect:
        off = max(off, distance(expect["mtp_logits"], oracle.mtp_logits(ids)))
    return off


def run(case, folder):
    """[(what, off by, must move)] of one case, as it lies in its files."""
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    assert config == json.loads(json.dumps(case["config"])), (
        f"{folder} was made from another cases.py"
    )
    stored = {}
    for file in glob.glob(os.path.join(folder, "model*.safetensors")):
        stored.update(load_file(file))
    expect = load_file(os.path.join(folder, "expect.safetensors"))
    values = weights.widen(stored)
    rows = [("as it is", off_by(expect, Oracle(config, values)), False)]
    for name in case["proves"].split():
        if name == "fp8_one_scale":
            oracle = Oracle(config, weights.widen(_one_scale(stored)))
        elif name in BEFORE:
            oracle = Oracle(*BEFORE[name](config, values))
        else:
            oracle = Oracle(config, values)
            AFTER[name](oracle)
        rows.append((name, off_by(expect, oracle), True))
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", default=os.path.join(HERE, "..", "..", "tests", "golden"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    bad = 0
    for case in CASES:
        for name, off, must_move in run(case, os.path.join(args.dir, case["name"])):
            good = off >= 10 * TOLERANCE if must_move else off <= TOLERANCE / 10
            bad += not good
            print(f"{case['name']:16} {name:18} {off:.1e}  {'ok' if good else 'FAILED'}")
    print(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
