# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny model until a given time of day, on a CPU that others use too.

The schedule follows the clock, not a step count: progress = (now - start) / (until - start). So a run that is slowed
down or stopped for a while still cools down and ends on time; it only sees fewer tokens. State is saved every few
minutes, and a run started again in the same folder goes on where it was.

    progress  0.00 - 0.25   plain text, rows of 256 tokens
              0.25 - 0.70   rows of 512
              0.70 - 0.88   YaRN frequencies on; every 8th step reads rows of 2,048
              0.88 - 1.00   the chat phase: 2 rows of 1,024 tokens of conversations to 6 of plain text

Muon for matrices, AdamW for embeddings, head, norms and gates; warm-up 2%, constant to 55%, then linear to 0.

    python tools/train/train.py --data ../shared/data/tales --tokenizer models/tiny/tokenizer.json \\
        --run /tmp/tiny-run --until 15:42
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import signal
import time

import numpy as np
import torch
from tokenizers import Tokenizer

import model as M
from data import Conversations, Tales, Windows, text_blocks

TOKENS = 8192  # a step
LONG, YARN_FROM, CHAT_FROM = 0.25, 0.70, 0.88
WARM, FLAT = 0.02, 0.55
LR_MUON, LR_ADAM, DECAY = 0.02, 3e-3, 0.1
MTP_WEIGHT, MTP_SHARE, BIAS_STEP = 0.3, 4, 0.003
HEAD_ROWS = 2048  # the head runs in chunks of so many rows, whose logits stay in the cache


def rate(progress):
    """The learning rate's factor at this progress."""
    if progress < WARM:
        return max(progress / WARM, 0.02)
    return 1.0 if progress < FLAT else max((1 - progress) / (1 - FLAT), 0.0)


class Muon:
    """Momentum, then the nearest orthogonal matrix by five Newton-Schulz steps (Jordan et al. 2024), per [.., out, in]."""

    def __init__(self, params, momentum=0.95):
        self.momentum, self.groups = momentum, {}
        for p in params:
            self.groups.setdefault(self.shape(p), []).append(p)
        self.buffers = {s: torch.zeros(sum(self.view(p).shape[0] for p in ps), *s) for s, ps in self.groups.items()}

    @staticmethod
    def shape(p):
        """Stacked [E, 2 * I, H] holds gate and up of each expert: two matrices."""
        return (M.C["moe_intermediate_size"], M.H) if p.dim() == 3 and p.shape[-1] == M.H else tuple(p.shape[-2:])

    def view(self, t):
        return t.view(-1, *self.shape(t))

    @staticmethod
    def orthogonal(g):
        x = g.bfloat16()
        tall = x.shape[1] > x.shape[2]
        x = x.transpose(1, 2) if tall else x
        x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
        for _ in range(5):
            a = x @ x.transpose(1, 2)
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return (x.transpose(1, 2) if tall else x).float()

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            g = torch.cat([self.view(p.grad) for p in params])
            buf = self.buffers[shape].mul_(self.momentum).add_(g)
            u = self.orthogonal(g.add_(buf, alpha=self.momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            sizes = [self.view(p).shape[0] for p in params]
            for p, part in zip(params, u.split(sizes)):
                p.mul_(1 - lr * DECAY)
                self.view(p).add_(part, alpha=-lr * scale)
                p.grad = None


def optimizers(model):
    matrices, norms, rest = [], [], []
    for name, p in model.named_parameters():
        if p.dim() == 1:
            norms.append(p)
        elif name in ("embed", "head") or name.endswith(".gate"):
            rest.append(p)
        else:
            matrices.append(p)
    adam = torch.optim.AdamW([{"params": rest, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}],
                             lr=LR_ADAM, betas=(0.9, 0.95), fused=True)
    return Muon(matrices), adam


class Rows:
    """What to read at a given progress."""

    def __init__(self, tok, root, seed):
        tales = Tales(tok, root)
        self.text = {t: Windows(tales, t, seed) for t in (256, 512, 1024, 2048)}
        self.chat = Conversations(tales, 1024, seed)

    def take(self, progress, step):
        if progress >= CHAT_FROM:
            a, b = self.chat.take(2), self.text[1024].take(6)
            order = [0, 2, 1, 3, 4, 5, 6, 7]  # the MTP layer is trained on the first rows: let it see both kinds
            ids, mask = np.concatenate([a[0], b[0]])[order], np.concatenate([a[1], b[1]])[order]
        else:
            length = 256 if progress < LONG else 512
            if progress >= YARN_FROM and step % 8 == 0:
                length = 2048
            ids, mask = self.text[length].take(TOKENS // length)
        return torch.from_numpy(ids), torch.from_numpy(mask).float()

    def state(self):
        return {"text": {t: w.state for t, w in self.text.items()}, "chat": self.chat.state}

    def load(self, state):
        for t, s in state["text"].items():
            self.text[t].state = s
        self.chat.state = state["chat"]


def head_loss(model, hidden, target, mask, dtype):
    """Summed loss and count of the targets that the mask lets through."""
    target, mask = target.reshape(-1), mask.reshape(-1)
    chunks = zip(hidden.reshape(-1, M.H).split(HEAD_ROWS), target.split(HEAD_ROWS), mask.split(HEAD_ROWS))
    return sum(M.fast.cross_entropy(h, model.head, t, m, dtype) for h, t, m in chunks), mask.sum()


def losses(model, ids, mask, yarn, dtype=torch.bfloat16):
    """(loss, count) of the next token, and of the MTP layer on a share of the rows."""
    hidden = model.hidden(ids[:, :-2], yarn, dtype)
    n = len(ids) // MTP_SHARE
    mtp = model.mtp_hidden(hidden[:n], ids[:n, 1:-1], yarn, dtype)
    return (head_loss(model, hidden, ids[:, 1:-1], mask[:, 1:-1], dtype),
            head_loss(model, mtp, ids[:n, 2:], mask[:n, 2:], dtype))


@torch.no_grad()
def evaluate(model, blocks, scored, size, yarn, dtype=torch.bfloat16, batch=8192):
    """Bits per byte of some texts, and how often the MTP layer's first choice is the head's first choice there."""
    M.fast.use(compiled=False)
    nll = agree = rows = 0.0
    step = max(batch // (blocks.shape[1] - 2), 1)
    for ids, mask in zip(blocks.split(step), scored.split(step)):
        hidden = model.hidden(ids[:, :-2], yarn, dtype)
        logits = M.mm(hidden, model.head, dtype).float()
        lost = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:-1].flatten(), reduction="none")
        nll += (lost * mask[:, 1:-1].flatten()).sum().item()
        ahead = M.mm(model.mtp_hidden(hidden, ids[:, 1:-1], yarn, dtype), model.head, dtype)
        same = ahead[:, :-1].argmax(-1) == logits[:, 1:].argmax(-1)  # both predict token i + 2
        agree += (same * mask[:, 2:-1]).sum().item()
        rows += mask[:, 2:-1].sum().item()
    return nll / math.log(2) / size, agree / rows


@torch.no_grad()
def balance(model, step):
    """Pushes the gate's bias towards equal loads (auxiliary-loss-free balancing)."""
    worst = 0.0
    for layer in model.layers:
        if not layer.dense:
            mean = layer.load.mean()
            worst = max(worst, (layer.load.max() / mean).item())
            layer.bias += step * (mean - layer.load).sign()
            layer.load.zero_()
    return worst


def save(path, state):
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", default="../shared/data/tales")
    ap.add_argument("--tokenizer", default="models/tiny/tokenizer.json")
    ap.add_argument("--run", required=True, help="folder for the state and the log")
    ap.add_argument("--until", required=True, help="local time HH:MM at which the schedule ends")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--save-minutes", type=float, default=8)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--steps", type=int, default=0, help="stop after so many steps (to measure speed)")
    ap.add_argument("--eager", action="store_true", help="do not compile")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    M.fast.use(compiled=not args.eager)
    run = pathlib.Path(args.run)
    run.mkdir(parents=True, exist_ok=True)

    tok = Tokenizer.from_file(args.tokenizer)
    rows = Rows(tok, args.data, args.seed)
    valid, train = text_blocks(tok, args.data, "valid", 512), text_blocks(tok, args.data, "train", 512, every=60)
    model = M.Model()
    muon, adam = optimizers(model)

    clock = datetime.time.fromisoformat(args.until)
    until = datetime.datetime.combine(datetime.date.today(), clock).timestamp()
    start, step, tokens = time.time(), 0, 0
    state_path = run / "state.pt"
    if state_path.exists():
        s = torch.load(state_path, weights_only=False)
        model.load_state_dict(s["model"])
        adam.load_state_dict(s["adam"])
        muon.buffers = s["muon"]
        rows.load(s["rows"])
        start, step, tokens = s["start"], s["step"], s["tokens"]
        print(f"goes on at step {step}", flush=True)
    log = open(run / "log.jsonl", "a")

    def checkpoint(progress):
        save(state_path, {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.buffers,
                          "rows": rows.state(), "start": start, "step": step, "tokens": tokens, "progress": progress})

    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(valid[0])} valid blocks", flush=True)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    saved = shown = time.time()
    since, seen, seen_rows, worst = [0.0, 0.0], [0.0, 0.0], 0, 0.0
    while True:
        now = time.time()
        progress = (now - start) / (until - start)
        if progress >= 1 or stop or (args.steps and step >= args.steps):
            break
        ids, mask = rows.take(progress, step)
        yarn, factor = progress >= YARN_FROM, rate(progress)
        (nll, n), (ahead, n2) = losses(model, ids, mask, yarn)
        (nll / n + MTP_WEIGHT * ahead / n2).backward()
        for group in adam.param_groups:
            group["lr"] = LR_ADAM * factor
        adam.step()
        adam.zero_grad(set_to_none=True)
        muon.step(LR_MUON * factor)
        worst = max(worst, balance(model, BIAS_STEP * factor))
        step, tokens, seen_rows = step + 1, tokens + TOKENS, seen_rows + TOKENS
        for k, (a, b) in enumerate(((nll, n), (ahead, n2))):
            since[k], seen[k] = since[k] + a.item(), seen[k] + b.item()
        if step % 20 == 0:
            took = time.time() - shown
            entry = {"step": step, "minutes": round((time.time() - start) / 60, 2), "tokens": tokens,
                     "progress": round(progress, 4), "loss": round(since[0] / seen[0], 4),
                     "mtp": round(since[1] / seen[1], 4), "tok_s": round(seen_rows / took), "load": round(worst, 2)}
            print(entry, flush=True)
            print(json.dumps(entry), file=log, flush=True)
            shown, since, seen, seen_rows, worst = time.time(), [0.0, 0.0], [0.0, 0.0], 0, 0.0
        if time.time() - saved > 60 * args.save_minutes:
            paused = time.time()
            checkpoint(progress)
            bpb, agree = evaluate(model, *valid, yarn)
            seen_bpb, _ = evaluate(model, *train, yarn)
            M.fast.use(compiled=not args.eager)
            for layer in model.layers[1:]:
                layer.load.zero_()
            entry = {"step": step, "minutes": round((time.time() - start) / 60, 2), "tokens": tokens,
                     "valid_bits_per_byte": round(bpb, 4), "train_bits_per_byte": round(seen_bpb, 4),
                     "mtp_agreement": round(agree, 4)}
            print(entry, flush=True)
            print(json.dumps(entry), file=log, flush=True)
            saved = time.time()
            shown += saved - paused
    checkpoint(progress)
    if stop:
        return
    bpb, agree = evaluate(model, *valid, True, torch.float32)
    print(f"valid {bpb:.4f} bits/byte, MTP agreement {agree:.3f}, {tokens / 1e6:.1f} M tokens", flush=True)


if __name__ == "__main__":
    main()
