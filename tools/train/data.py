# SPDX-License-Identifier: Apache-2.0
"""The tales as rows of token ids: plain text for the first phase, conversations for the second.

A document is one tale (or chapter): <bos> text <eos>. Each epoch shuffles the documents, shows some of them without
their title line and some as the answer of a chat turn, joins them, and cuts the stream into windows in random order.
A window has T + 2 ids: T inputs, the next token for the head, the one after it for the MTP layer. Everything is a
function of (seed, epoch), so a resumed run goes on with the same rows.
"""
import gzip
import json
import pathlib
import random
import re

import numpy as np
import torch

import chat

BOS, EOS, PAD, USER, ASSISTANT = range(5)


def read_texts(root, part):
    """The tales of each book, by its key. Tales are separated by two blank lines and open with '# Title'."""
    books = {}
    for path in sorted(pathlib.Path(root, part).glob("*.txt.gz")):
        text = gzip.open(path, "rt", encoding="utf-8").read().strip("\n")
        books[path.name.removesuffix(".txt.gz")] = re.split(r"\n\n\n+(?=# )", text)
    if not books:
        raise SystemExit(f"{root}/{part}: no *.txt.gz found")
    return books


def split_title(doc):
    """('Title', 'body') of a tale."""
    head, _, body = doc.partition("\n")
    return head.removeprefix("# ").strip(), body.strip("\n")


def encode_turns(tok, turns, system=""):
    """ids and loss mask of a conversation; only what the assistant says, and its <eos>, is learnt."""
    ids = [BOS] + tok.encode(system).ids if system else [BOS]
    mask = [0] * len(ids)
    for user, answer in turns:
        u, a = tok.encode(user).ids, tok.encode(answer).ids
        ids += [USER, *u, ASSISTANT, *a, EOS]
        mask += [0] * (len(u) + 2) + [1] * (len(a) + 1)
    return ids, mask


class Tales:
    """All training documents, tokenised once in the three ways they are shown."""

    def __init__(self, tok, root):
        books = read_texts(root, "train")
        docs = [d for book in books.values() for d in book]
        tier = {b["key"]: b["tier"] for b in json.loads(pathlib.Path(root, "index.json").read_text(encoding="utf-8"))}
        self.tok = tok
        self.titled = [split_title(d) for d in docs]
        self.simple = [split_title(d) for key, book in books.items() if tier[key] == "A" for d in book]
        arr = lambda ids: np.array(ids, dtype=np.uint16)
        self.raw = [arr(e.ids) for e in tok.encode_batch(docs)]
        self.body = [arr(e.ids) for e in tok.encode_batch([b for _, b in self.titled])]

    def stream(self, rng):
        """One epoch as a single array of ids: 60% titled, 15% without the title, 25% as a chat turn."""
        parts = []
        for i in rng.sample(range(len(self.raw)), len(self.raw)):
            shown = rng.random()
            if shown < 0.60:
                parts += [[BOS], self.raw[i], [EOS]]
            elif shown < 0.75:
                parts += [[BOS], self.body[i], [EOS]]
            else:
                ask = self.tok.encode(chat.ask_for_title(rng, self.titled[i][0])).ids
                parts += [[BOS, USER], ask, [ASSISTANT], self.body[i], [EOS]]
        return np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])


class Windows:
    """Rows of plain text of one length, without replacement inside an epoch. `state` is (epoch, next row)."""

    def __init__(self, tales, length, seed):
        self.tales, self.length, self.seed = tales, length, seed
        self.epoch, self.at, self.rows = 0, 0, None

    def fill(self):
        rng = random.Random(f"{self.seed}/{self.length}/{self.epoch}")
        stream = self.tales.stream(rng)
        first = rng.randrange(self.length)
        starts = list(range(first, len(stream) - self.length - 2, self.length))
        rng.shuffle(starts)
        self.rows = [stream[s : s + self.length + 2] for s in starts]

    def take(self, n):
        """[n, T + 2] ids and a mask of ones."""
        if self.rows is None:
            self.fill()
        if self.at + n > len(self.rows):
            self.epoch, self.at = self.epoch + 1, 0
            self.fill()
        ids = np.stack(self.rows[self.at : self.at + n])
        self.at += n
        return ids, np.ones_like(ids)

    @property
    def state(self):
        return self.epoch, self.at

    @state.setter
    def state(self, value):
        self.epoch, self.at = value
        self.rows = None


class Conversations:
    """Rows packed with conversations made from the tales; the first one of a row starts at position 0."""

    def __init__(self, tales, length, seed):
        self.tales, self.length, self.seed = tales, length, seed
        self.state = 0  # rows made so far

    def row(self):
        rng = random.Random(f"{self.seed}/chat/{self.state}")
        self.state += 1
        ids, mask = [], []
        while len(ids) < self.length + 2:
            system, turns = chat.conversation(rng, self.tales.titled, self.tales.simple)
            more, m = encode_turns(self.tales.tok, turns, system)
            if len(more) <= self.length + 2:
                ids, mask = ids + more, mask + m
        return ids[: self.length + 2], mask[: self.length + 2]

    def take(self, n):
        rows = [self.row() for _ in range(n)]
        return np.array([r[0] for r in rows], dtype=np.int64), np.array([r[1] for r in rows], dtype=np.int64)


def text_blocks(tok, root, part, length, every=1):
    """Whole texts as blocks for scoring: (ids [n, length + 2], scored [n, length + 2], bytes of the scored text).

    Every text token is scored exactly once, with the context its block gives it; <bos> and <eos> are not scored, nor is
    the padding of the last block. scored[:, j] says whether ids[:, j] counts as a target. `every` takes a sample of
    the tales."""
    ids, scored, size = [], [], 0
    docs = [doc for book in read_texts(root, part).values() for doc in book]
    for doc in docs[::every]:
        e = tok.encode(doc).ids
        ids += [BOS, *e, EOS]
        scored += [0] + [1] * len(e) + [0]
        size += len(doc.encode())
    n = -(-(len(ids) - 1) // length)
    ids += [PAD] * (n * length + 2 - len(ids))
    scored += [0] * (n * length + 2 - len(scored))
    cut = lambda v: torch.tensor([v[i * length : i * length + length + 2] for i in range(n)])
    return cut(ids), cut(scored), size
