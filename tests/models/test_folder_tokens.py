"""Laws of a folder's special tokens: what ends a text, begins a document, and marks infill."""

import json
from pathlib import Path

import pytest
from family_files import change_config

from aobatch.models import SpecialTokens
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.source.tokenizer_json import read_fields, read_tokenizer


def change(path: Path, **values: object) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tokens(folder: Path) -> SpecialTokens:
    """Read the special tokens of a folder."""
    return read_tokenizer(folder, read_fields(folder / "config.json"), 512)[1]


def start(folder: Path) -> tuple[int, bool]:
    """Read what starts a document, and whether it is added to prompts."""
    found = tokens(folder)
    return found.document_start_token_id, found.adds_document_start


def test_every_file_may_name_ends(folder: Path) -> None:
    """Ids of the generation's settings, of the model's and of the tokenizer's are all ends."""
    change(folder / "generation_config.json", eos_token_id=[7, 9])
    change_config(folder, eos_token_id=11)
    change(folder / "tokenizer_config.json", eos_token={"content": "<|fim_middle|>"})

    assert tokens(folder).eos_token_ids == (0, 3, 7, 9, 11)


def test_ends_of_turns_are_ends(folder: Path) -> None:
    """A special token of such a name ends a text though no file says so."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|fim_suffix|>", "<|im_end|>"))

    assert tokens(folder).eos_token_ids == (0, 2)
    assert tokens(folder).infill_token_ids == ()


@pytest.mark.parametrize(
    ("name", "is_special", "ends"),
    [
        ("<|eot_id|>", True, True),
        ("<end_of_turn>", True, True),
        ("<end_of_turn>", False, True),
        ("<|im_end|>", False, True),
        ("▁<EOT>", True, True),
        ("</s>", True, True),
        ("</s>", False, False),
        ("<|tool|>", True, False),
    ],
)
def test_ends_of_turns_go_by_their_names(
    folder: Path, name: str, *, is_special: bool, ends: bool
) -> None:
    """A tag that is also written in texts ends one only if the vocabulary calls it special."""
    content = json.loads((folder / "tokenizer.json").read_text())
    (token,) = [token for token in content["added_tokens"] if token["id"] == 2]
    del content["model"]["vocab"][token["content"]]
    token["content"], token["special"] = name, is_special
    content["model"]["vocab"][name] = 2
    (folder / "tokenizer.json").write_text(json.dumps(content))

    assert tokens(folder).eos_token_ids == ((0, 2) if ends else (0,))


def test_the_map_of_special_tokens_names_ends_and_starts(folder: Path) -> None:
    """special_tokens_map.json is one more file that may say so, as a text or an object."""
    content = {"eos_token": {"content": "<|fim_middle|>"}, "bos_token": "<|fim_prefix|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(content))
    change(folder / "tokenizer_config.json", add_bos_token=True, bos_token=None)
    change(folder / "generation_config.json", bos_token_id=None)
    change_config(folder, bos_token_id=None)

    assert tokens(folder).eos_token_ids == (0, 3)
    assert start(folder) == (1, True)


@pytest.mark.parametrize(
    "names",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<PRE>", "<SUF>", "<MID>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ],
)
def test_infill_tokens_go_by_their_names(folder: Path, names: tuple[str, str, str]) -> None:
    """However a family calls the tokens ahead of prefix, suffix and middle, they are found."""
    text = (folder / "tokenizer.json").read_text()
    for role, name in zip(("prefix", "suffix", "middle"), names, strict=True):
        text = text.replace(f"<|fim_{role}|>", name)
    (folder / "tokenizer.json").write_text(text)

    assert tokens(folder).infill_token_ids == (1, 2, 3)


@pytest.mark.parametrize("wrong", [-1, 512, 1.5, "0", True, None, [[0]]])
def test_ids_that_are_none_are_passed_by(wrong: object, folder: Path) -> None:
    """What is no id of the vocabulary ends nothing."""
    change(folder / "generation_config.json", eos_token_id=wrong)

    assert tokens(folder).eos_token_ids == (0,)


def test_the_post_processor_begins_documents(folder: Path) -> None:
    """The token that it puts ahead of a text is added to prompts."""
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|fim_prefix|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {},
    }
    first = {"type": "ByteLevel", "add_prefix_space": False}
    change(
        folder / "tokenizer.json",
        post_processor={"type": "Sequence", "processors": [first, template]},
    )

    assert start(folder) == (1, True)


def test_the_tokenizers_settings_may_begin_documents(folder: Path) -> None:
    """add_bos_token adds the token that is named as the first of a text."""
    change(folder / "tokenizer_config.json", add_bos_token=True, bos_token="<|fim_suffix|>")
    change(folder / "generation_config.json", bos_token_id=None)
    change_config(folder, bos_token_id=None)

    assert start(folder) == (2, True)


def test_nothing_is_added_where_nobody_says_so(folder: Path) -> None:
    """An empty prompt begins with the token between documents, others with themselves."""
    change(folder / "generation_config.json", bos_token_id=5)

    assert start(folder) == (
        0,
        False,
    )


def test_templates_are_never_read(folder: Path) -> None:
    """A chat template may be anything; the model is read as without it."""
    before = read_safetensors(folder)
    change(folder / "tokenizer_config.json", chat_template="{{ cycler.__init__.__globals__ }}")
    (folder / "chat_template.jinja").write_bytes(b"\xff{% for x in y %}")

    after = read_safetensors(folder)
    assert (before.spec, before.tokenizer_json) == (after.spec, after.tokenizer_json)
    assert b"cycler" not in after.tokenizer_json
