# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny model's tokenizer and writes it with its config and chat template.

A byte-level BPE of 4,096 tokens behind DeepSeek-V3's pre-tokeniser sequence, so that the small model exercises the
same three expressions as the large ones. The special tokens carry DeepSeek's names; as there, <｜User｜> and
<｜Assistant｜> are added tokens that are not "special" (they show when decoded).

    python tools/train/tokenizer.py --data ../shared/data/tales --out models/tiny
"""
import argparse
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data import read_texts

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
VOCAB = 4096

NUMBERS = r"\p{N}{1,3}"
CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)

CHAT_TEMPLATE = """\
{%- if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}
{%- set ns = namespace(system='', first=true) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- if ns.first -%}
      {%- set ns.system = message['content'] -%}
      {%- set ns.first = false -%}
    {%- else -%}
      {%- set ns.system = ns.system + '\\n\\n' + message['content'] -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{{- bos_token + ns.system -}}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<｜User｜>' + message['content'] -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<｜Assistant｜>' + message['content'] + eos_token -}}
  {%- elif message['role'] != 'system' -%}
    {{- raise_exception('this model knows the roles system, user and assistant, not ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""


def train(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r), "isolated") for r in (NUMBERS, CJK, WORDS)]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[BOS, EOS, PAD, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    return tok


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", default="../shared/data/tales")
    ap.add_argument("--out", default="models/tiny")
    args = ap.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    texts = [doc for book in read_texts(args.data, "train").values() for doc in book]
    spec = json.loads(train(texts).to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] not in (USER, ASSISTANT)
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=1) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": 8192,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
    tok = Tokenizer.from_file(str(out / "tokenizer.json"))
    size = sum(len(t.encode()) for t in texts)
    ids = sum(len(e.ids) for e in tok.encode_batch(texts))
    print(f"{tok.get_vocab_size()} tokens, {size / ids:.3f} bytes a token on {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
