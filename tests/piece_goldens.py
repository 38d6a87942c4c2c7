"""Write tests/data/pieces: models of sentencepiece, and the ids that it gives to texts.

Run it in an environment with sentencepiece (0.2.3 wrote what is there): `python piece_goldens.py`.
"""

import json
import random
from pathlib import Path

import sentencepiece

DATA = Path(__file__).parent / "data/pieces"
CORPUS = Path(__file__).parents[1] / "batch/aobatch/models/quality.txt"
PLAIN = {
    "model_type": "bpe",
    "byte_fallback": True,
    "vocab_size": 700,
    "character_coverage": 0.99,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "minloglevel": 2,
    "num_threads": 1,
    "max_sentence_length": 100_000,
}
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "fewer-spaces": {"remove_extra_whitespaces": True},
    "folded": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "no-prefix": {
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n\n", "▁▁", "▁▁▁▁", "<table>"],
    },
}
WRITTEN = [
    *("", " ", "  ", "\n", "a", " a", "a ", "  two  words  ", "line\nbreak\n\n  indented\n"),
    *("don't 'quote' \"it\"", "12345 67.89", "naïve café", "ﬁne ½ ﷺ ㍿ Å", "日本語のテキスト"),
    *("🙂 👩‍👩‍👧 flags 🇩🇪", "e\u0301 e\u0300\u0323", "tab\there", "a\u00a0b\u3000c", "\u200bzero"),
    *("<table>x</table> <p>", "▁already▁", "<0x41> <0x", "\x00\x01\x7f", "ĲǄﬀ"),
]


def texts() -> list[str]:
    """Give texts of every kind, some of them random."""
    chance = random.Random(0)
    corpus = CORPUS.read_text()
    parts = ["  ", " ", "\n", "the", "é", "①", "<table>", "ﾊﾞ", "▁", "한글", "x" * 9, "\t", "…"]
    starts = (chance.randrange(len(corpus) - 200) for _ in range(40))
    cut = [corpus[start : start + chance.randrange(5, 120)] for start in starts]
    mixed = ["".join(chance.choices(parts, k=chance.randrange(1, 12))) for _ in range(60)]
    return [*WRITTEN, *cut, *mixed]


def main() -> None:
    """Train each kind of model on the shipped text, and note its ids."""
    DATA.mkdir(exist_ok=True)
    known = texts()
    expected = {}
    for name, options in KINDS.items():
        path = DATA / f"{name}.model"
        sentencepiece.SentencePieceTrainer.train(
            input=str(CORPUS), model_prefix=str(path.with_suffix("")), **PLAIN | options
        )
        path.with_suffix(".vocab").unlink()
        expected[name] = sentencepiece.SentencePieceProcessor(str(path)).encode(known)
    (DATA / "expected.json").write_text(json.dumps({"texts": known, "ids": expected}))


if __name__ == "__main__":
    main()
