#!/usr/bin/env python3
"""Makes tests/golden/tokenizer-small/tokenizer.json: a byte-level BPE of 2,500 tokens, trained with `tokenizers` on the help texts that
come with Python (PSF licence) and the sentences below, so that the tests always have a tokenizer of several scripts."""
import json
import os
import pydoc_data.topics
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = """
Der Mond ist aufgegangen, die goldnen Sternlein prangen am Himmel hell und klar; größer, weißer, süßer als je zuvor.
L'été dernier, j'ai mangé des œufs à la coque près de la forêt. El niño corrió por la montaña y gritó: ¡mañana será otro día!
Съешь же ещё этих мягких французских булок да выпей чаю. Жил-был старик со старухой у самого синего моря.
Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί. 从前有座山，山里有座庙，庙里有个老和尚在讲故事。
吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。カタカナとひらがなを読む。
다람쥐 헌 쳇바퀴에 타고파. 옛날 옛적에 호랑이가 담배 피우던 시절. सभी मनुष्य जन्म से स्वतन्त्र हैं और बराबर हैं।
كان يا ما كان في قديم الزمان. דג סקרן שט בים מאוכזב ולפתע מצא חברה. กาลครั้งหนึ่งนานมาแล้ว
👩‍👩‍👧‍👦 🇩🇪 🇯🇵 👍🏽 ❤️ 🎉 1234567890 3.14159 0x7fff 12,345.67 2026-11-24T13:38:00Z
if (x != NULL) { return x->next; }    // comment\n\tfor (int i = 0; i < n; i++) printf("%d\\n", a[i]);
"""

V3 = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
      "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]


def main(out):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in V3] +
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    topics = [t for _, t in sorted(pydoc_data.topics.topics.items())]
    trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(topics + [SENTENCES] * 12, trainer)
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False),
                    AddedToken("<thinking>", normalized=False), AddedToken("<｜tool｜>", normalized=False)])
    os.makedirs(out, exist_ok=True)
    data = json.loads(tok.to_str())
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
    config = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "add_bos_token": True}
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)


main(sys.argv[1] if len(sys.argv) > 1 else
     os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden/tokenizer-small"))
