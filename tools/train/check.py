# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on the valid texts and compares its logits with `transformers`, both in float32.

    python tools/train/check.py models/tiny --data ../shared/data/tales
"""
import argparse
import os

import torch
from tokenizers import Tokenizer

import export
from data import text_blocks
from train import evaluate


@torch.no_grad()
def compare(path, model, ids):
    """Largest difference of a logit from `transformers`', and the largest logit."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(ids).logits
    ours = model.logits(model.hidden(ids, yarn=True))
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--data", default="../shared/data/tales")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--lengths", default="512,2048,8192")
    ap.add_argument("--batch", type=int, default=8192, help="tokens at once")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    model = export.load(args.model)
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    for length in map(int, args.lengths.split(",")):
        ids, scored, size = text_blocks(tok, args.data, "valid", length)
        if length == 512:
            sample = ids[5:7, :-2]
        bpb, agree = evaluate(model, ids, scored, size, True, torch.float32, args.batch)
        print(f"valid, blocks of {length}: {bpb:.4f} bits/byte over {size} bytes, MTP agreement {agree:.4f}", flush=True)
    diff, largest = compare(args.model, model, sample)
    print(f"logits against transformers: largest difference {diff:.2e}, largest logit {largest:.2f}")


if __name__ == "__main__":
    main()
