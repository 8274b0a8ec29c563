"""supernode tokenize, driven as a user would: lines in, lines out, and back. The ids of 10,000 strings are compared by
tests/text/test_tokenizer_parity.c; here some hundred lines pass through the command itself, for each tokenizer there is."""
import json
import os
import random
import subprocess

import pytest
from tokenizers import Tokenizer

ROOT = os.environ["SUPERNODE_ROOT"]
BIN = os.environ["SUPERNODE_BIN"]
SMALL = os.path.join(ROOT, "tests/golden/tokenizer-small")
TINY = os.path.join(ROOT, "models/tiny")
DEEPSEEK = os.path.join(ROOT, "../shared/data/tokenizers/deepseek-v3")


def tokenize(*args, data=b"", code=0):
    p = subprocess.run([BIN, "tokenize", *args], input=data, capture_output=True)
    assert p.returncode == code, p.stderr.decode()
    return p.stderr.decode() if code else p.stdout


def ids(*args, data):
    return [json.loads(line) for line in tokenize(*args, data=data).split(b"\n")[:-1]]


@pytest.fixture(params=[SMALL, TINY, DEEPSEEK], ids=["small", "tiny", "deepseek-v3"])
def folder(request):
    if not os.path.exists(os.path.join(request.param, "tokenizer.json")):
        pytest.skip(f"{os.path.relpath(request.param, ROOT)}/tokenizer.json is not there")
    return request.param


def load(folder, added=True):
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
        data = json.load(f)
    if not added:
        data["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(data)), [t["content"] for t in json.load(open(os.path.join(folder, "tokenizer.json"), encoding="utf-8"))["added_tokens"]]


def lines(added, n=400):
    rng = random.Random(10)
    words = ["the", " story", "漢字", "é", "👩‍👩‍👧", "  ", "\t", "12345", "don't", "x = f(a[1]);", "\r", "\0", "ﬁn", "\u2028", "мир", "<", *added[:20]]
    out = ["".join(rng.choice(words) for _ in range(rng.randrange(20))).encode() for _ in range(n)]
    return out + [b"\xff\xfe bad \xe6\xbc", b"\xf0\x9f\x91", b"", b" " * 5000, b"ends in return\r"]


@pytest.mark.parametrize("special", [False, True])
def test_a_line_of_ids_for_each_line(folder, special):
    tok, added = load(folder, added=special)
    text = lines(added)
    found = ids(folder, *(["--special"] if special else []), data=b"\n".join(text) + b"\n")
    assert found == [tok.encode(t.decode("utf-8", "replace"), add_special_tokens=False).ids for t in text]


def test_decode_gives_the_lines_back(folder):
    _, added = load(folder)
    text = [t.decode("utf-8", "replace").encode() for t in lines(added)]
    for flags in ([], ["--special"]):
        encoded = tokenize(folder, *flags, data=b"\n".join(text) + b"\n")
        assert tokenize(folder, "--decode", *flags, data=encoded) == b"\n".join(text) + b"\n"


def test_lines_end_at_newlines_only():
    one = ids(SMALL, data=b"a")
    assert one == ids(SMALL, data=b"a\n") and len(one) == 1
    assert ids(SMALL, data=b"") == []
    assert ids(SMALL, data=b"\n\n") == [[], []]
    assert len(ids(SMALL, data=b"a\rb\x0bc\xe2\x80\xa8d\r\n")) == 1


def test_bos_only_on_request():
    assert ids(SMALL, "--bos", data=b"a\n\n") == [[0, *ids(SMALL, data=b"a\n")[0]], [0]]
    assert tokenize(SMALL, "--decode", data=b"[0]\n") == b"\n"
    assert tokenize(SMALL, "--decode", "--special", data=b"[0]\n") == b"<|begin|>\n"


def test_a_file_is_read(tmp_path):
    (tmp_path / "text").write_bytes(b"two\nlines")
    assert tokenize(SMALL, str(tmp_path / "text")) == tokenize(SMALL, data=b"two\nlines")


def test_a_folder_with_the_tokenizer_alone_is_enough(tmp_path):
    with open(os.path.join(SMALL, "tokenizer.json"), "rb") as f:
        (tmp_path / "tokenizer.json").write_bytes(f.read())
    assert tokenize(str(tmp_path), data=b"the\n") == tokenize(SMALL, data=b"the\n")
    assert "no BOS token" in tokenize(str(tmp_path), "--bos", data=b"a\n", code=1)


@pytest.mark.parametrize("line, sentence", [
    (b"7", "standard input: line 1: found an integer, expected an array of ids"),
    (b"[1,", "standard input: line 1: line 1 column"),
    (b'[1,"2"]', "standard input: line 1: [1]: found a string, expected an id"),
    (b"[-1]", "standard input: line 1: [0]: found another integer, expected an id"),
])
def test_bad_ids_get_a_sentence(line, sentence):
    assert sentence in tokenize(SMALL, "--decode", data=line + b"\n", code=1)


def test_a_bad_folder_gets_a_sentence(tmp_path):
    assert "tokenizer.json" in tokenize(str(tmp_path), code=1)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    assert tokenize(str(tmp_path), code=1) == f"supernode: {tmp_path}/tokenizer.json: model: type: found 'WordPiece', expected BPE\n"
    assert "usage" in tokenize(code=2)
