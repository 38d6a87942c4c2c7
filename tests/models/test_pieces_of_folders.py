"""Laws of tokenizers without tokenizer.json: the ids are those of sentencepiece, or of a class."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_files import DATA, change_config, config_of
from safetensors.numpy import load_file, save_file

from aobatch.errors import ModelError
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.source.vocabulary import SPLITTINGS
from aobatch.models.spec import Checkpoint
from aobatch.models.tokenizer import VocabularyTokenizer

PIECES = DATA / "pieces"
EXPECTED = json.loads((PIECES / "expected.json").read_text())
TEXTS = EXPECTED["texts"]
# The tokenizers library folds characters together with the marks behind them.
MARKED = ("\uff8a\uff9e", "\u0323")


def in_place(folder: Path, name: str, **settings: object) -> Path:
    """Let a folder have a model of sentencepiece for its tokenizer, and rows for its pieces."""
    (folder / "tokenizer.json").unlink()
    shutil.copy(PIECES / f"{name}.model", folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for key, weight in tensors.items():
        if len(weight) == config_of(folder)["vocab_size"]:
            tensors[key] = np.resize(weight, (720, weight.shape[1]))
    save_file(tensors, path)
    return change_config(folder, vocab_size=720)


def tokenizer_of(checkpoint: Checkpoint, folder: Path) -> VocabularyTokenizer:
    """Open the tokenizer that a model would have."""
    path = folder / "made.json"
    path.write_bytes(checkpoint.tokenizer_json)
    return VocabularyTokenizer(path, checkpoint.spec.vocab_size)


@pytest.mark.parametrize("name", EXPECTED["ids"])
def test_texts_get_the_ids_of_sentencepiece(name: str, folder: Path) -> None:
    """Spaces, bytes, marks, words; a table that folds characters gives a warning."""
    checkpoint = read_safetensors(in_place(folder, name))
    tokenizer = tokenizer_of(checkpoint, folder)
    is_folded = name == "folded"
    wrong = [
        text
        for text, ids in zip(TEXTS, EXPECTED["ids"][name], strict=True)
        if tokenizer.encode(text).tolist() != ids
    ]

    assert all(is_folded and any(mark in text for mark in MARKED) for text in wrong)
    assert ["tokenizer.model folds characters" in x for x in checkpoint.warnings] == (
        [True] * is_folded
    )


def test_special_tokens_are_those_of_the_model(folder: Path) -> None:
    """The first piece is added to prompts unless the folder says not to; the end ends a text."""
    first = read_safetensors(in_place(folder, "plain"))
    tokenizer = tokenizer_of(first, folder)
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    second = read_safetensors(folder)

    assert (first.document_start_token_id, first.adds_document_start) == (1, True)
    assert (second.adds_document_start, 2 in first.eos_token_ids) == (False, True)
    assert tokenizer.encode("a</s>").tolist()[-1] == 2
    assert list(tokenizer.special_token_ids) == [0, 1, 2]


def test_added_tokens_follow_the_pieces(folder: Path) -> None:
    """Those that tokenizer_config.json lists are found in texts, and are special if it says so."""
    turn: dict[str, Any] = {"content": "<|im_end|>", "special": True, "normalized": False}
    settings = {"added_tokens_decoder": {"700": turn}}
    checkpoint = read_safetensors(in_place(folder, "plain", **settings))
    tokenizer = tokenizer_of(checkpoint, folder)

    assert 700 in checkpoint.eos_token_ids
    assert tokenizer.encode("a<|im_end|>").tolist()[-1] == 700


def test_only_the_first_word_gets_a_space_where_the_folder_says_so(folder: Path) -> None:
    """Old classes put one behind each special token, too; new ones (legacy: false) do not."""
    old = tokenizer_of(read_safetensors(in_place(folder, "plain")), folder)
    (folder / "tokenizer_config.json").write_text('{"legacy": false}')
    new = tokenizer_of(read_safetensors(folder), folder)
    space, word = old.encode("x").tolist(), new.encode("a</s>x").tolist()

    assert old.encode("a</s>x").tolist()[-len(space) :] == space
    assert word[-2:] == [2, space[-1]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no model", "it is no model of sentencepiece"),
        (b"", "not merged by scores"),
        (b"\x12\x02\x18\x01", r"not merged by scores \(BPE\)"),
        (b"\x12\x02\x18\x02", "there is no piece for byte 0"),
        (b"\x0a\x00\x12\x02\x18\x02", "piece 0, '', is empty or there twice"),
        (b"\x0a\x03\x0a\x01a" * 2, "piece 1, 'a', is empty or there twice"),
        (b"\x0a\x03\x0a\x01\xff", "piece 0, .* is empty or there twice"),
        (b"\x0a\x05\x0a\x01a\x18\x05\x12\x02\x18\x02", "some of its pieces are not to be used"),
        (b"\x12\x02\x18\x02\x1a\x02\x28\x00", "do not begin with the space ahead of a word"),
    ],
)
def test_other_models_are_refused(content: bytes, reason: str, folder: Path) -> None:
    """Whatever sentencepiece has beside merges with bytes gives one sentence."""
    in_place(folder, "plain")
    (folder / "tokenizer.model").write_bytes(content)

    with pytest.raises(ModelError, match=rf"tokenizer\.model is refused: .*{reason}"):
        read_safetensors(folder)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2TokenizerFast"])
def test_a_vocabulary_and_merges_are_read_as_their_class_has_it(name: str, folder: Path) -> None:
    """Ids are those of a tokenizer.json with the class's rule, which a warning says."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    rule = {"GPT2Tokenizer": "gpt-2", "Qwen2TokenizerFast": "qwen2"}[name]
    parts = {key: SPLITTINGS[rule][key] for key in ("normalizer", "pre_tokenizer")}
    expected = folder / "expected.json"
    expected.write_text(json.dumps(whole | parts))
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]
    ]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    added = {str(token.pop("id")): token for token in whole["added_tokens"]}
    settings = {
        "tokenizer_class": name,
        "added_tokens_decoder": added,
        "eos_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    checkpoint = read_safetensors(folder)
    made = tokenizer_of(checkpoint, folder)
    known = VocabularyTokenizer(expected, checkpoint.spec.vocab_size)

    for text in (*TEXTS, "a<|endoftext|>b"):
        assert made.encode(text).tolist() == known.encode(text).tolist()
    assert [name.removesuffix("Fast") in warning for warning in checkpoint.warnings] == [True]


def test_a_class_that_is_not_known_is_refused(folder: Path) -> None:
    """Its rule may be any, so that its ids would be a guess."""
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "OwnTokenizer"}')

    with pytest.raises(ModelError, match=r"is 'OwnTokenizer', and vocab\.json .* as GPT2"):
        read_safetensors(folder)
