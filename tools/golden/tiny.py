# SPDX-License-Identifier: Apache-2.0
"""What `transformers` in float32 says about models/tiny: greedy ids and the largest logits for a few prompts.

The smallest gap between first and second choice over the greedy steps is recorded beside the ids, so that a test can
tell a rounding tie from an error.

    python tools/golden/tiny.py --model models/tiny --out tests/golden/tiny.json
"""
import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "Once upon a time there was a king who",
    "The fox said to the crow,",
    "# The Old Woman and the Wolf\n\n",
    "And when the giant heard this, he laughed till the mountains shook; but the boy only said:",
    "Zeus, Odysseus & 1,001 nights -- naïve façade, 東京 🦊?",
]
CHATS = [
    [{"role": "user", "content": "Tell me a story about a fox."}],
    [{"role": "system", "content": "You tell old tales."}, {"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "Tell me a tale about a king."},
     {"role": "assistant", "content": "There was once a king who had three sons."},
     {"role": "user", "content": "How does it end?"}],
]
STEPS, SHOWN = 32, 8


@torch.no_grad()
def greedy(model, ids, steps):
    """Greedy ids (stopping after <eos>), the smallest margin, and the last prompt position's largest logits."""
    out, margin, first = [], float("inf"), None
    for _ in range(steps):
        logits = model(torch.tensor([ids + out])).logits[0, -1]
        top = logits.topk(SHOWN)
        first = first or [[i, round(v, 5)] for i, v in zip(top.indices.tolist(), top.values.tolist())]
        margin = min(margin, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
        if out[-1] == model.config.eos_token_id:
            break
    return out, margin, first


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--model", default="models/tiny")
    ap.add_argument("--out", default="tests/golden/tiny.json")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(args.model)
    cases = []
    for prompt in PROMPTS:
        ids = [tok.bos_token_id] + tok(prompt, add_special_tokens=False).input_ids
        cases.append({"prompt": prompt, "ids": ids})
    for messages in CHATS:
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        cases.append({"messages": messages, "prompt": text, "ids": tok(text, add_special_tokens=False).input_ids})
    for case in cases:
        out, margin, first = greedy(model, case["ids"], STEPS)
        case |= {"greedy": out, "text": tok.decode(out), "min_margin": round(margin, 5), "top_logits": first}
    body = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    with open(args.out, "w", encoding="utf-8") as f:
        f.write(f"[\n{body}\n]\n")
    print(f"{len(cases)} prompts, smallest margin {min(c['min_margin'] for c in cases)}")


if __name__ == "__main__":
    main()
