#!/usr/bin/env python3
"""Prints the table of src/text/unicode.c: characters that Oniguruma, as `tokenizers` links it, gives a general category (or one of
the scripts below) and Unicode 14, the version of Debian 12's PCRE2 and of Python 3.11, does not. Needs Python 3.11 with `tokenizers`."""
import unicodedata

from tokenizers import Regex, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", "run this with Python 3.11"
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Cyrillic Greek Arabic Hebrew Thai Devanagari".split()
LATER = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) == "Cn"]


def ranges(name):
    split = pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed", invert=True)
    found = sorted({ord(c) for i in range(0, len(LATER), 65536)
                    for piece, _ in split.pre_tokenize_str("".join(map(chr, LATER[i:i + 65536]))) for c in piece})
    out = []
    for c in found:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


for table, names in (("later_categories", CATEGORIES), ("later_scripts", SCRIPTS)):
    rows = [f'{{0x{lo:X}, 0x{hi:X}, "{name}"}},' for name in names for lo, hi in ranges(name)]
    print(f"static const struct later {table}[] = {{")
    line = "   "
    for r in rows:
        if len(line) + len(r) + 1 > 100:
            print(line)
            line = "   "
        line += " " + r
    print(line + "\n};")
