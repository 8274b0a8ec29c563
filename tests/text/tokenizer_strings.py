#!/usr/bin/env python3
"""The oracle of test_tokenizer_parity.c: strings, and what `tokenizers` makes of them, one JSON object a line.

    tokenizer_strings.py FOLDER|variants SEED COUNT

FOLDER has a tokenizer.json; "variants" stands for the small tokenizer of tests/golden with some thirty other normalisers, pre-tokenisers,
added tokens and options, COUNT strings each. {"tokenizer": text} begins a tokenizer; then come lines with
  bytes    the string in hexadecimal (not always UTF-8)
  ids      with added tokens recognised;  plain: with none
  at       for each of ids the byte at which its first character begins (null: the text changes, or `tokenizers` miscounts)
  decode   [[ids, text, text without special tokens], ...] in hexadecimal"""
import copy
import json
import os
import pydoc_data.topics
import random
import sys
import unicodedata

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = os.path.join(HERE, "../golden/tokenizer-small/tokenizer.json")

TOPICS = [t for _, t in sorted(pydoc_data.topics.topics.items())]
CODE = [open(f, encoding="utf-8").read() for f in (os.__file__, random.__file__, json.__file__, copy.__file__)]
SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200E), 0x2028, 0x2029, 0x202F,
                           0x205F, 0x3000, 0x180E, 0xFEFF, 0x1C, 0x1F)]
EMOJI = "😀👩👨👧👦🧑🏽‍❤️🔥🏳🌈🇩🇪🇯🇵1️⃣©™👍🏿🫠"
JOINERS = "\u200d\ufe0f\ufe0e\U0001F3FB\U0001F3FF\u20e3"
CASE = ["'s", "'S", "'ſ", "'t", "'RE", "'ve", "'M", "'ll", "'Ll", "'d", "'D", "’s", "K", "İ", "ß", "ẞ", "ﬁ", "ǅ"]
NUMBERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c))[0] == "N"]
MARKS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c))[0] == "M"]
COMPOSED = [chr(c) for c in range(0xA0, 0x30000) if unicodedata.decomposition(chr(c))]
BLOCKS = [b for b in range(0, 0x32400, 0x80) if not 0xD800 <= b < 0xE000] + [0xE0000, 0xE0100, 0xF0000, 0x10FF80]


def characters(rng, n):
    out = ""
    while len(out) < n:
        block = rng.choice(BLOCKS)
        out += "".join(chr(block + rng.randrange(0x80)) for _ in range(rng.randint(1, 8)))
        if rng.random() < 0.5:
            out += rng.choice(" \n.,1a'")
    return out


def added_mix(rng, added):
    out = []
    for _ in range(rng.randint(1, 8)):
        token = rng.choice(added)
        kind = rng.random()
        if kind < 0.6:
            out.append(token)
        elif kind < 0.75:
            out.append(token[:rng.randint(1, len(token))])
        elif kind < 0.8:
            out.append(token.upper())
        out.append(rng.choice(["", "", " ", "  ", "\n", "\u3000", "word", "a", "_", ".", "9", "\u0301", "é", " x ", "<", "\u200d"]))
    return "".join(out)


def one(rng, added):
    n = int(2 ** rng.uniform(0, 8))
    kind = rng.randrange(12)
    if kind == 0:
        return characters(rng, n)
    if kind == 1:
        return "".join(rng.choice([rng.choice(SPACES), " ", "\n", "\r\n", "x", "1", "."]) for _ in range(n))
    if kind == 2:
        return "".join(rng.choice([rng.choice(NUMBERS), str(rng.randrange(10 ** rng.randint(1, 9))), " ", ",", "."]) for _ in range(n // 2 + 1))
    if kind == 3:
        return "".join(rng.choice(EMOJI) + (rng.choice(JOINERS) if rng.random() < 0.6 else "") for _ in range(n // 2 + 1))
    if kind == 4:
        text = rng.choice(CODE)
        i = rng.randrange(len(text))
        return text[i:i + 4 * n]
    if kind == 5:
        text = rng.choice(TOPICS)
        i = rng.randrange(len(text))
        return text[i:i + 4 * n]
    if kind == 6:
        return added_mix(rng, added)
    if kind == 7:
        return rng.choice([rng.choice("a 0.-=\n\t漢é<'"), chr(rng.choice(BLOCKS) + rng.randrange(128)), "ab", " a", "\n ", "a\u0301"]) * (4 * n)
    if kind == 8:
        return "".join(rng.choice(["a", "O", " ", "ᄀ", "ᅡ", "ᆨ", "가", "e", rng.choice(COMPOSED)]) + "".join(
            rng.choice(MARKS) for _ in range(rng.randint(0, 4))) for _ in range(n // 4 + 1))
    if kind == 9:
        return "".join(rng.choice(["I", "you", "He", "", " ", "x"]) + rng.choice(CASE) + rng.choice(["", " ", "s", "\n"]) for _ in range(n // 4 + 1))
    if kind == 10:
        return "".join(chr(rng.randrange(0, 0x180)) for _ in range(n))
    return one(rng, added) + one(rng, added)


def string(rng, added):
    data = one(rng, added).encode("utf-8")
    if rng.random() < 0.15:
        data = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            i = rng.randint(0, len(data))
            data[i:i + rng.randint(0, 2)] = bytes(rng.choice([rng.randrange(256), 0xFF, 0xC0, 0xE2, 0xED, 0xF0, 0xF4, 0x80])
                                                  for _ in range(rng.randint(0, 3)))
    return bytes(data)


def starts(text, encoding):
    at, byte = [], 0
    for c in text:
        at.append(byte)
        byte += len(c.encode("utf-8"))
    return [at[begin] for begin, _ in encoding.offsets]


def emit(data, name, rng, count):
    data = dict(data, post_processor=None)
    tok = Tokenizer.from_str(json.dumps(data))
    plain = Tokenizer.from_str(json.dumps(dict(data, added_tokens=[])))
    added = [t["content"] for t in data["added_tokens"]]
    normalised = data["normalizer"] not in (None, {"type": "Sequence", "normalizers": []})
    moved = normalised or name == "lacks bytes" or "prefix_space\": true" in json.dumps(data["pre_tokenizer"])
    vocab = tok.get_vocab_size()
    print(json.dumps({"name": name, "tokenizer": json.dumps(data, ensure_ascii=rng.random() < 0.5)}))
    for _ in range(count):
        raw = string(rng, added)
        text = raw.decode("utf-8", "replace")
        e = tok.encode(text, add_special_tokens=False)
        mixed = e.ids + [rng.randrange(vocab + 3) for _ in range(rng.randint(0, 6))]
        rng.shuffle(mixed)
        decode = [[ids, *(tok.decode(ids, skip_special_tokens=skip).encode("utf-8").hex() for skip in (False, True))]
                  for ids in (e.ids, mixed)]
        print(json.dumps({"bytes": raw.hex(), "ids": e.ids, "plain": plain.encode(text, add_special_tokens=False).ids,
                          "at": None if moved or text.encode("utf-8") != raw else starts(text, e), "decode": decode}))


# --- variants of the small tokenizer ---------------------------------------------------------------------------------

def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def token(content, **flags):
    return dict({"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}, **flags)


CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TIKTOKEN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
KIMI = "|".join([r"[\p{Han}]+",
                 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                 r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK_V2 = [split("[\r\n]"), split("\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅ]+"),
               split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"), split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}]
CORNERS = [r"\bthe\b|\w+", r"\W+", r"[^\W\d]+", r"\d+", r"\S+$", r"^\s+|\s+$", r"\h{2,4}?", r"(?<=a)\s|[[a-f]x-z]+", r"[\p{Ll}&&[^aeiou]]+",
           r"[^a-z&&[^aeiou]]+", r"\p{^L}+", r"[\P{N}&&\P{L}]+", r".", r"x*", r"(?>\s+)(?=\S)", r"a{,3}|[\s\S]{1,2}+", r"[.\-_]|\u0041\x{42}",
           r"\p{Latin}+|\p{Hiragana}+|\p{Cyrillic}+|\p{Han}+|\p{Arabic}+", r"\A\s|\s\Z|e\z", r"\B.", r"(a|e|i)+", r"[\w]+|[\W]", r"\W\w|[^\w]"]


def variants(base):
    def change(name, **members):
        data = copy.deepcopy(base)
        data.update(members)
        return name, data

    def added(name, tokens, **members):
        name, data = change(name, **members)
        vocab, taken = data["model"]["vocab"], 0
        data["added_tokens"] = data["added_tokens"][:4]
        for t in tokens:
            data["added_tokens"].append(dict(t, id=vocab.get(t["content"], len(vocab) + taken)))
            taken += t["content"] not in vocab
        return name, data

    yield change("as it is")
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield change(form, normalizer={"type": form})
    yield change("lower", normalizer={"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}]})
    yield change("replace", normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": "\\d+|e"}, "content": ""}]})
    for space in (False, True):
        yield change(f"gpt2 {space}", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True})
    yield change("spaces", pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}]})
    for name, pattern in (("cl100k", CL100K), ("tiktoken", TIKTOKEN), ("o200k", O200K), ("kimi", KIMI)):
        yield change(name, pre_tokenizer=sequence(split(pattern)))
    yield change("deepseek v2", pre_tokenizer=sequence({"type": "Sequence", "pretokenizers": DEEPSEEK_V2[:3]}, *DEEPSEEK_V2[3:]))
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield change(f"{behavior} {invert}", pre_tokenizer=sequence(split("[aeiou ]|\\n", behavior, invert)))
        yield change(f"{behavior} string", pre_tokenizer=sequence(split(".", behavior, False, "String"), {"type": "Punctuation", "behavior": behavior}))
    for pattern in CORNERS:
        yield change("corner " + pattern, pre_tokenizer=sequence(split(pattern, "MergedWithNext")))
    yield change("digits", pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}))
    yield change("whitespace", pre_tokenizer=sequence({"type": "Whitespace"}))
    name, data = change("ignore merges")
    data["model"]["ignore_merges"] = True
    data["model"]["merges"] = data["model"]["merges"][::2]
    yield name, data
    name, data = change("lacks bytes")
    for byte in ("a", "Ġ", "Ã", "0"):
        del data["model"]["vocab"][byte]
    data["model"]["merges"] = [m for m in data["model"]["merges"] if not {"a", "Ġ", "Ã", "0"} & set(m)]
    data["added_tokens"] = data["added_tokens"][:4]
    yield name, data
    flags = [token("<a>"), token("<a> b"), token("<left>", lstrip=True), token("<right>", rstrip=True, special=True),
             token("<both>", lstrip=True, rstrip=True), token("word", single_word=True), token("<a><a>"), token("é", special=True),
             token("\n\n"), token(" x", lstrip=True), token("ab", single_word=True, lstrip=True, rstrip=True), token("\n", rstrip=True)]
    yield added("added", flags)
    for form in (None, "NFC", "NFKC", "Lowercase"):
        mixed = [dict(t, normalized=i % 2 == 0) for i, t in enumerate(flags[:8])] + [token("Ångström", normalized=True), token("ＡＢ", normalized=True, special=True)]
        yield added(f"added {form}", mixed, normalizer=form and {"type": form})


def main():
    where, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    if where == "variants":
        for name, data in variants(json.load(open(SMALL, encoding="utf-8"))):
            emit(data, name, rng, count)
    else:
        emit(json.load(open(os.path.join(where, "tokenizer.json"), encoding="utf-8")), where, rng, count)


main()
