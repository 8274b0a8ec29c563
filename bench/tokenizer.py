#!/usr/bin/env python3
"""Tokenising beside Hugging Face's `tokenizers`: MB/s of one thread on a megabyte of each of several kinds, the best of five runs each,
and the time to load. python bench/tokenizer.py [FOLDER], after `make`; prints JSON lines."""
import json
import os
import pydoc_data.topics
import random
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, __version__

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MB = 1 << 20


def fill(text):
    data = text.encode("utf-8")
    return (data * (MB // len(data) + 1))[:MB].decode("utf-8", "ignore")


def texts():
    rng = random.Random(7)
    han = [chr(c) for c in range(0x4E00, 0x9000)]
    yield "English", fill("".join(t for _, t in sorted(pydoc_data.topics.topics.items())))
    yield "code", fill("".join(open(m.__file__, encoding="utf-8").read() for m in (random, subprocess, tempfile, json, os)))
    yield "Chinese, one run", fill("".join(rng.choice(han) for _ in range(300000)))
    yield "every script", fill("".join(chr(rng.choice([0x100, 0x400, 0x5D0, 0x900, 0xE00, 0xAC00, 0x1F600]) + rng.randrange(60)) +
                                       rng.choice(["", "", "", " "]) for _ in range(400000)))
    yield "one word of a", "a" * MB
    yield "spaces", " " * MB
    yield "newlines", "\n" * MB
    yield "digits", fill("".join(rng.choice("0123456789") for _ in range(MB)))
    yield "random bytes", bytes(rng.randrange(256) for _ in range(MB)).decode("utf-8", "replace")
    yield "random letters, one word", "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(MB))


def best(f, runs=5):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "models/tiny")
    path = os.path.join(folder, "tokenizer.json")
    cases = list(texts())
    with tempfile.TemporaryDirectory() as tmp:
        tool = os.path.join(tmp, "tokenizer")
        libs = subprocess.run(["pkg-config", "--libs", "jansson", "libpcre2-8", "libutf8proc"], capture_output=True, text=True, check=True)
        subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", f"-I{ROOT}/src", f"{ROOT}/bench/tokenizer.c", f"{ROOT}/build/libsupernode.a", "-o", tool,
                        *libs.stdout.split(), "-lpthread", "-lm"], check=True)
        files = []
        for i, (_, text) in enumerate(cases):
            files.append(os.path.join(tmp, str(i)))
            with open(files[-1], "wb") as f:
                f.write(text.encode("utf-8"))
        ours = subprocess.run([tool, folder, *files], capture_output=True, text=True, check=True).stdout.split("\n")
    tok = Tokenizer.from_file(path)
    print(json.dumps({"folder": folder, "load_ms": round(int(ours[0]) / 1e6, 1),
                      "tokenizers_load_ms": round(1e3 * best(lambda: Tokenizer.from_file(path), 3), 1), "tokenizers": __version__}))
    for (name, text), line in zip(cases, ours[1:]):
        ns, n = map(int, line.split())
        size = len(text.encode("utf-8")) / 1e6
        theirs = best(lambda: tok.encode(text, add_special_tokens=False), 2)
        print(json.dumps({"text": name, "tokens": n, "mb_s": round(size / (ns / 1e9), 1), "tokenizers_mb_s": round(size / theirs, 1)}))


main()
