# SPDX-License-Identifier: Apache-2.0
"""Draws samples from a checkpoint with `transformers` at the defaults of its generation_config.json.

    python tools/train/sample.py models/tiny --out models/tiny/samples.md
"""
import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CHATS = [
    ["Tell me a story about a fox."],
    ["Tell me a story about a king and his daughter."],
    ["Tell me a tale about a giant."],
    ["Can you tell me a story about a wolf and a lamb?"],
    ["Please tell me a short tale about a tortoise."],
    ["Tell me a story about an old woman."],
    ["Write a short fairy tale about a dragon."],
    ["Tell me a story."],
    ["Tell me a bedtime story."],
    ["Tell me a story about a robot."],
    ["Go on from this line: The youngest brother opened the door, and there stood a white horse."],
    ["Continue this story: One morning the crow found a golden ring in the market."],
    ["How does the tale of the three brothers end?"],
    ["Hello!", "Tell me a story about a bear."],
    ["What is the capital of France?"],
    ["Tell me a story about a prince.", "How does it end?"],
]
PLAIN = [
    "Once upon a time there was a poor fisherman who",
    "# The Lion and the Hare\n\n",
    "The sea was dark, and the men sat silent at the oars, till",
    "\"Who are you?\" said the witch.",
]


@torch.no_grad()
def draw(model, tok, ids, limit):
    out = model.generate(torch.tensor([ids]), max_new_tokens=limit, max_length=None)[0, len(ids):].tolist()
    stopped = bool(out) and out[-1] == tok.eos_token_id
    return tok.decode(out[: len(out) - stopped]), "stopped by itself" if stopped else "cut", len(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model")
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--limit", type=int, default=600)
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(args.model)
    g = model.generation_config
    lines = ["# Samples", "", f"Drawn by `tools/train/sample.py` with `transformers` in float32: temperature {g.temperature}, "
             f"top-p {g.top_p}, repetition penalty {g.repetition_penalty}, seeds {args.seed} and up, one draw each, none left "
             f"out; at most {args.limit} tokens."]
    seed, stops = args.seed, []
    for turns in CHATS:
        messages = []
        for text in turns:
            messages.append({"role": "user", "content": text})
            prompt = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            torch.manual_seed(seed)
            answer, how, n = draw(model, tok, tok(prompt, add_special_tokens=False).input_ids, args.limit)
            messages.append({"role": "assistant", "content": answer})
            stops.append(how)
        lines += ["", f"## {seed}. Chat"]
        for m in messages:
            lines += ["", f"**{m['role']}**", "", "> " + m["content"].replace("\n", "\n> ")]
        lines += ["", f"({n} tokens, {how})"]
        seed += 1
    for prompt in PLAIN:
        torch.manual_seed(seed)
        answer, how, n = draw(model, tok, [tok.bos_token_id] + tok(prompt, add_special_tokens=False).input_ids, args.limit)
        lines += ["", f"## {seed}. Plain text", "", "> **" + prompt.strip().replace("\n", " ") + "** "
                  + answer.replace("\n", "\n> "), "", f"({n} tokens, {how})"]
        seed += 1
    with open(args.out, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{len(CHATS) + len(PLAIN)} samples; {stops.count('cut')} of {len(stops)} answers were cut")


if __name__ == "__main__":
    main()
