# SPDX-License-Identifier: Apache-2.0
"""Writes the attribution that the training texts ask for, from the lists that came with them.

    python tools/train/attribution.py --data ../shared/data/tales --out models/tiny/ATTRIBUTION.md
"""
import argparse
import json
import pathlib

HEAD = """# Where the texts came from

The weights in this folder were trained on the texts below. The texts themselves are not part of this project.

## African Storybook, CC BY

Stories by the people named, from African Storybook (https://www.africanstorybook.org), as gathered in
`global-asp/asp-source` (commit 99e02236), English, only those marked CC BY (https://creativecommons.org/licenses/by/4.0/;
the source does not state the version). They were cleaned and joined with other texts for training; a few near-duplicates
were left out. The authors do not endorse this model. Whoever passes the weights on passes this list on with them.

"""
BOOKS = """
## Public domain in the USA

Project Gutenberg's texts (by number) and one from sacred-texts.com, as gathered in `templeoflum/mythic-library` (commit
7d4b82f4), each identified by its own header; cleaned, without Project Gutenberg's headers and notes.

"""


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", default="../shared/data/tales")
    ap.add_argument("--out", default="models/tiny/ATTRIBUTION.md")
    args = ap.parse_args()
    read = lambda name: json.loads(pathlib.Path(args.data, name).read_text(encoding="utf-8"))
    text = HEAD
    for story in read("african_storybook_attribution.json"):
        text += f"- {story['title']} -- {'; '.join(a.strip() for a in story['attribution'])}\n"
    text += BOOKS
    for book in read("index.json"):
        if book["licence"].startswith("public domain"):
            number = f", no. {book['gutenberg']}" if book["gutenberg"] else ""
            text += f"- {book['title']} -- {book['author_or_editor']}{number}\n"
    pathlib.Path(args.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
