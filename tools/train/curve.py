# SPDX-License-Identifier: Apache-2.0
"""Draws the loss curve of a run.

    python tools/train/curve.py --run /tmp/tiny-run --out models/tiny/curve.png
"""
import argparse
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--run", required=True)
    ap.add_argument("--out", default="models/tiny/curve.png")
    args = ap.parse_args()
    log = [json.loads(line) for line in pathlib.Path(args.run, "log.jsonl").open()]
    steps = [e for e in log if "loss" in e]
    scores = [e for e in log if "valid_bits_per_byte" in e]
    millions = lambda entries: [e["tokens"] / 1e6 for e in entries]

    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=90)
    left.plot(millions(steps), [e["loss"] / math.log(2) for e in steps], lw=0.8, label="next token")
    left.plot(millions(steps), [e["mtp"] / math.log(2) for e in steps], lw=0.8, label="MTP, the token after")
    left.set(ylabel="training loss, bits a token", ylim=(3.5, 9))
    right.plot(millions(scores), [e["valid_bits_per_byte"] for e in scores], "o-", ms=3, label="valid")
    right.plot(millions(scores), [e["train_bits_per_byte"] for e in scores], "o-", ms=3, label="train (every 60th tale)")
    right.set(ylabel="bits a byte, blocks of 512", ylim=(1.05, 1.8))
    for ax in (left, right):
        ax.set_xlabel("million tokens")
        for progress, what in ((0.70, "YaRN"), (0.88, "chat")):
            at = next((e["tokens"] / 1e6 for e in steps if e["progress"] >= progress), None)
            if at:
                ax.axvline(at, color="grey", lw=0.7, ls=":")
                ax.text(at, ax.get_ylim()[1], f" {what}", va="top", fontsize=8, color="grey")
        ax.legend(frameon=False)
        ax.grid(alpha=0.25)
    fig.tight_layout()
    fig.savefig(args.out)


if __name__ == "__main__":
    main()
