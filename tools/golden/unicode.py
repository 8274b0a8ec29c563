#!/usr/bin/env python3
"""Prints the tables of src/text/unicode.c, characters that Oniguruma, as `tokenizers` links it, gives a general category (or one of the
scripts below) and Unicode 14, the version of Debian 12's PCRE2 and of Python 3.11, does not; and that of src/text/unicode_form.c,
characters that `tokenizers` normalises otherwise than Unicode 14, with all later ones. Needs Python 3.11 with `tokenizers`."""
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", "run this with Python 3.11"
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Cyrillic Greek Arabic Hebrew Thai Devanagari".split()
LATER = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) == "Cn"]


def ranges(found):
    out = []
    for c in sorted(found):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def later(name):
    split = pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed", invert=True)
    return {ord(c) for i in range(0, len(LATER), 65536)
            for piece, _ in split.pre_tokenize_str("".join(map(chr, LATER[i:i + 65536]))) for c in piece}


def normalised_otherwise():
    found = set()
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        theirs = getattr(normalizers, form)().normalize_str
        for c in range(0xA0, 0x110000):
            if 0xD800 <= c < 0xE000:
                continue
            contexts = [chr(c)] if form != "NFD" else [chr(c), f"a{chr(c)}\u0334", f"a\u0345{chr(c)}", f"a\u0301{chr(c)}\u0323"]
            if any(theirs(s) != unicodedata.normalize(form, s) for s in contexts):
                found.add(c)
    return found


def table(head, rows):
    print(head)
    line = "   "
    for r in rows:
        if len(line) + len(r) + 1 > 100:
            print(line)
            line = "   "
        line += " " + r
    print(line + "\n};")


everything = set()
for name, names in (("later_categories", CATEGORIES), ("later_scripts", SCRIPTS)):
    found = {n: later(n) for n in names}
    everything.update(*found.values())
    table(f"static const struct later {name}[] = {{",
          [f'{{0x{lo:X}, 0x{hi:X}, "{n}"}},' for n in names for lo, hi in ranges(found[n])])
table("static const uint32_t later_than_9[][2] = {",
      [f"{{0x{lo:X}, 0x{hi:X}}}," for lo, hi in ranges(everything | normalised_otherwise())])
