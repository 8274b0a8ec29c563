#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes golden cases: a tiny random checkpoint and what the model must answer.

    make.py                                    all named cases, into tests/golden
    make.py --case v3-r1 --out DIR             one of them
    make.py --random 20 --seed 7 --out DIR     20 drawn over everything the product runs

Each case is a folder: config.json, model.safetensors (or shards and index), expect.safetensors (ids
I32 [n], logits F32 [n, vocab], mtp_logits F32 [n-1, vocab] where there is MTP, greedy I32 [64]) and
expect.json (how near to a tie the case comes). Seeds are tried until no greedy token and no routing
decision is near enough to a tie for rounding to turn it. Needs torch, transformers and safetensors;
the product and its tests do not.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings

import torch
import transformers
from safetensors.torch import save_file

import cases
import weights
from reference import Oracle, RouteWatch, check_v3_mask, config_of, top1_margin

GREEDY = 64
TOP1_MARGIN = 1e-3  # share of the largest |logit|; the product may be off by 1e-4
ROUTE_MARGIN = 2e-5  # of a choice value near 1; float32 rounding moves it by about 1e-6
NOISE = 1e-5  # the oracle against itself: cached one by one against all at once
TRIES = 400
HERE = os.path.dirname(os.path.abspath(__file__))


def distance(a, b):
    """Largest difference as a share of the largest |value| of a."""
    return float((a - b).abs().max() / a.abs().max())


def attempt(case, seed):
    """(stored weights, oracle, tensors to expect, facts) for one seed, or None if it comes near to
    a tie.
    """
    cfg = config_of(case["config"])
    stored = weights.store(cfg, case, weights.draw(cfg, case, seed))
    oracle = Oracle(case["config"], weights.widen(stored))
    g = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(0, cfg.vocab_size, (case["prompt"],), generator=g)
    with RouteWatch(oracle) as watch:
        greedy, rows = oracle.greedy(ids, GREEDY)
        logits = oracle.logits(ids)
        mtp = oracle.mtp_logits(ids)
    whole = oracle.logits(torch.cat([ids, greedy]))
    facts = {
        "seed": seed,
        "top1_margin": top1_margin(rows),
        "route_margin": watch.margin if watch.margin < 1e9 else None,
        "oracle_noise": distance(whole[case["prompt"] - 1 : -1], rows),
        "largest_logit": float(logits.abs().max()),
        "distinct_greedy": len(set(greedy.tolist())),
    }
    good = (
        facts["top1_margin"] >= TOP1_MARGIN
        and watch.margin >= ROUTE_MARGIN
        and facts["oracle_noise"] <= NOISE
        and facts["distinct_greedy"] >= min(12, cfg.vocab_size // 4)
        and logits.isfinite().all()
    )
    if not good:
        return None
    expect = {
        "ids": ids.to(torch.int32),
        "logits": logits.clone(),
        "greedy": greedy.to(torch.int32),
    }
    if mtp is not None:
        expect["mtp_logits"] = mtp.clone()
    return stored, oracle, expect, facts


def second_opinion(case, folder, oracle, expect):
    """What transformers' own loader makes of the folder: it reads our config.json and our names,
    and its MtpModel is a second reading of MTP. Says why where it is known to differ
    (reference.py); any other difference is an error.
    """
    cfg = oracle.cfg
    if not cfg.n_shared_experts:
        return "not asked: it cannot do without a shared expert"
    if cfg.model_type == "deepseek_v2" and (
        cfg.norm_topk_prob or getattr(cfg, "moe_layer_freq", 1) != 1
    ):
        return "not asked: it ignores norm_topk_prob and moe_layer_freq in V2"
    with tempfile.TemporaryDirectory() as copy:
        config = {k: x for k, x in case["config"].items() if k != "quantization_config"}
        with open(os.path.join(copy, "config.json"), "w") as f:
            json.dump(config, f)
        source = folder if case["dtype"] != "FP8" else copy
        if source == copy:  # its FP8 loader wants a GPU: hand it the widened values
            values = weights.widen(case["stored"])
            save_file(values, os.path.join(copy, "model.safetensors"), metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        ).eval()
    ids = expect["ids"].long()
    with torch.no_grad():
        off = distance(expect["logits"], model(ids[None]).logits[0])
        if oracle.mtp:
            off = max(off, distance(expect["mtp_logits"], mtp_of_transformers(oracle, ids)))
    if off > NOISE:
        sys.exit(f"{case['name']}: transformers' loader gives other logits, off by {off:.1e}")
    return "same logits"


def mtp_of_transformers(oracle, ids):
    from transformers.modeling_layers import MtpModel

    other = MtpModel(oracle.model, 1).eval()
    layer, ours = other.layers[0], oracle.mtp
    for theirs, mine in (
        (layer.enorm, ours.enorm),
        (layer.hnorm, ours.hnorm),
        (layer.eh_proj, ours.eh_proj),
        (layer.mtp_block, ours.block),
        (layer.post_norm, ours.norm),
    ):
        theirs.load_state_dict(mine.state_dict())
    positions = torch.arange(1, len(ids))[
        None
    ]  # one later than ours; only differences matter to RoPE
    h = other.forward_layer(
        0, oracle.hidden(ids)[None, :-1], positions, None, input_ids=ids[None, 1:]
    )
    return oracle.model.lm_head(h)[0]


def write(case, out, first_seed):
    for seed in range(first_seed, first_seed + 1000 * TRIES, 1000):
        found = attempt(case, seed)
        if found:
            break
    else:
        print(f"{case['name']}: no seed of {TRIES} stays clear of ties, skipped", file=sys.stderr)
        return False
    stored, oracle, expect, facts = found
    folder = os.path.join(out, case["name"])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(case["config"], f, indent=2)
        f.write("\n")
    weights.write(folder, stored, case["shards"])
    save_file(expect, os.path.join(folder, "expect.safetensors"))
    facts["transformers"] = second_opinion({**case, "stored": stored}, folder, oracle, expect)
    facts["made_with"] = (
        f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    )
    with open(os.path.join(folder, "expect.json"), "w") as f:
        json.dump({"says": case["says"], **facts}, f, indent=2)
        f.write("\n")
    size = sum(os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder))
    print(
        f"{case['name']:16} seed {seed:7} {size / 1024:6.0f} KiB  "
        f"top-1 {facts['top1_margin']:.1e}  routes {watch_text(facts)}  "
        f"noise {facts['oracle_noise']:.0e}  distinct {facts['distinct_greedy']:2}  "
        f"transformers: {facts['transformers']}"
    )
    return True


def watch_text(facts):
    return f"{facts['route_margin']:.1e}" if facts["route_margin"] is not None else "none   "


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", help="only this named case")
    parser.add_argument("--random", type=int, metavar="N", help="draw N configurations instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "..", "tests", "golden"))
    args = parser.parse_args()
    if args.random and "golden" in os.path.basename(os.path.normpath(args.out)):
        parser.error("--random wants an --out of its own")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    transformers.utils.logging.disable_progress_bar()
    check_v3_mask()
    if args.random:
        chosen = [cases.random_case(args.seed * 100000 + i) for i in range(args.random)]
    else:
        chosen = [c for c in cases.CASES if args.case in (None, c["name"])]
    if not chosen:
        parser.error(f"no case is called {args.case}")
    done = [write(c, args.out, args.seed) for c in chosen]
    return 0 if all(done) or args.random else 1


if __name__ == "__main__":
    sys.exit(main())
