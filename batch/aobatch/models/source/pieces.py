"""A tokenizer.json out of a sentencepiece's tokenizer.model, or of vocab.json and merges.txt.

The tokenizers library then gives the ids that sentencepiece gives, or those of the class that
`tokenizer_config.json` names.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from aobatch.models.checks import MAX_TOKENIZER_BYTES, read_regular, refusal, shown
from aobatch.models.checks.graph import check_growth
from aobatch.models.source.fields import Fields
from aobatch.models.source.vocabulary import SPLITTINGS, merges_by_score
from aobatch.models.tokenizer import SPACE

PIECES, VOCABULARY, MERGES = "tokenizer.model", "vocab.json", "merges.txt"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BPE = 2

# The parts of sentencepiece_model.proto that say how texts become ids: number, name, type, default.
_Field = tuple[int, str, str, str]
_MESSAGES: Mapping[str, Sequence[_Field]] = {
    "Piece": ((1, "piece", "string", ""), (2, "score", "float", "0"), (3, "type", "int32", "1")),
    "Trainer": (
        (3, "model_type", "int32", "1"),
        (24, "treat_whitespace_as_suffix", "bool", "false"),
        (41, "bos_id", "int32", "1"),
    ),
    "Normalizer": (
        (2, "precompiled_charsmap", "bytes", ""),
        (3, "add_dummy_prefix", "bool", "true"),
        (4, "remove_extra_whitespaces", "bool", "true"),
        (5, "escape_whitespaces", "bool", "true"),
    ),
    "Model": (
        (1, "pieces", "Piece", ""),
        (2, "trainer", "Trainer", ""),
        (3, "normalizer", "Normalizer", ""),
    ),
}


@cache
def _model_class() -> Any:  # noqa: ANN401 - made when it is first needed
    """Make the class of such files."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pieces.proto", package="pieces")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, name, kind, default in fields:
            field = message.field.add(number=number, name=name, label=kinds.LABEL_OPTIONAL)
            if kind in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".pieces.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
                field.default_value = default
            if name == "pieces":
                field.label = kinds.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pieces.Model"))


def pieces_json(path: Path, settings: Fields) -> tuple[bytes, str]:
    """Write a tokenizer.model as a tokenizer.json, and say where it may differ, if it may.

    `settings` are those of tokenizer_config.json. Raises ModelError for one that this cannot hold.
    """
    model = _read_model(path)
    tokens: dict[str, int] = {}
    for index, piece in enumerate(model.pieces):
        if type(piece.piece) is not str or not piece.piece or piece.piece in tokens:
            raise refusal(path, f"piece {index}, {shown(piece.piece)}, is empty or there twice")
        tokens[piece.piece] = index
    _check_kind(path, model, tokens)
    norm, kinds = model.normalizer, [piece.type for piece in model.pieces]
    unknown = next((piece.piece for piece in model.pieces if piece.type == _UNKNOWN), None)
    added = [_added(token, index, kinds[index], norm) for token, index in tokens.items()]
    start = model.pieces[model.trainer.bos_id].piece if model.trainer.bos_id >= 0 else ""
    rules: dict[str, Any] = {
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(norm, settings)},
        "pre_tokenizer": None,
    }
    if norm.add_dummy_prefix and settings.get("legacy") is False:
        rules["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "first",
            "split": False,
        }
    scores = [piece.score for piece in model.pieces]
    makes = [kind not in (_CONTROL, _UNKNOWN, _BYTE) for kind in kinds]
    bpe = {
        "vocab": tokens,
        "merges": merges_by_score(tokens, scores, makes),
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
    }
    remark = f"{path} folds characters by a table, of rare pairs not as sentencepiece does"
    content = _written(bpe, [x for x in added if x], rules, settings, start)
    return content, remark if norm.precompiled_charsmap else ""


def _read_model(path: Path) -> Any:  # noqa: ANN401 - untyped library
    content = read_regular(path.resolve(), MAX_TOKENIZER_BYTES)
    kind = _model_class()
    try:
        check_growth(content, kind.DESCRIPTOR)
        return kind.FromString(content)
    except DecodeError as error:
        raise refusal(path, f"it is no model of sentencepiece ({error})") from error


def _check_kind(path: Path, model: Any, tokens: Mapping[str, int]) -> None:  # noqa: ANN401
    if model.trainer.model_type != _BPE:
        raise refusal(path, "its pieces are not merged by scores (BPE), as all that is exact here")
    if model.trainer.treat_whitespace_as_suffix or not model.normalizer.escape_whitespaces:
        raise refusal(path, "its pieces do not begin with the space ahead of a word")
    if any(piece.type == _UNUSED for piece in model.pieces):
        raise refusal(path, "some of its pieces are not to be used")
    lost = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if lost:
        raise refusal(path, f"there is no piece for byte {lost[0]}")
    if model.trainer.bos_id >= len(tokens):
        raise refusal(path, f"its first token {model.trainer.bos_id} is none of its pieces")


def _normalizers(norm: Any, settings: Fields) -> list[dict[str, Any]]:  # noqa: ANN401
    """Say what happens to a text ahead of the merges."""
    rules: list[dict[str, Any]] = []
    if norm.precompiled_charsmap:
        table = b64encode(norm.precompiled_charsmap).decode()
        rules.append({"type": "Precompiled", "precompiled_charsmap": table})
    if norm.remove_extra_whitespaces:
        rules += [_replace({"Regex": pattern}, new) for pattern, new in _FEWER_SPACES.items()]
    if norm.add_dummy_prefix and settings.get("legacy") is False:
        return rules  # Metaspace does the rest
    if norm.add_dummy_prefix:
        rules.append({"type": "Prepend", "prepend": SPACE})
    return [*rules, _replace({"String": " "}, SPACE)]


# A run of spaces is looked at once, however long it is.
_FEWER_SPACES = {r"\A +|(?<![ ▁])[ ▁]+\z": "", " {2,}": " "}


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _added(token: str, index: int, kind: int, norm: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """Describe a piece that a text is searched for before anything else."""
    if kind not in (_CONTROL, _UNKNOWN, _USER_DEFINED):
        return None
    # What is defined by users is found in texts that were changed, if nothing is put ahead of it.
    is_searched_late = kind == _USER_DEFINED and not norm.add_dummy_prefix
    return _added_token(index, token, special=kind != _USER_DEFINED, normalized=is_searched_late)


def _added_token(index: int, content: str, *, special: bool, normalized: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": index, "content": content, "special": special, "normalized": normalized, **plain}


_RULES = {
    "GPT2Tokenizer": "gpt-2",
    "CodeGenTokenizer": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
}
"""How the classes split texts that have no more than a vocabulary and its merges."""


def merges_json(folder: Path, settings: Fields) -> tuple[bytes, str]:
    """Write vocab.json and merges.txt as a tokenizer.json, and say by which rule it splits texts.

    Raises ModelError if no class says how.
    """
    name = settings.text("tokenizer_class", "").removesuffix("Fast")
    if name not in _RULES:
        settings.refuse(
            f"'tokenizer_class' is {name!r}, and {VOCABULARY} and {MERGES} are read as "
            f"{', '.join(_RULES)} read them; save the tokenizer as tokenizer.json"
        )
    path = (folder / VOCABULARY).resolve()
    try:
        content = read_regular(path, MAX_TOKENIZER_BYTES)
        tokens = msgspec.json.decode(content, type=dict[str, int])
        lines = read_regular((folder / MERGES).resolve(), MAX_TOKENIZER_BYTES).decode().split("\n")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(path, f"it is no vocabulary, or {MERGES} are none: {error}") from error
    merges = [
        line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")
    ]
    rule = SPLITTINGS[_RULES[name]]
    rules = {key: rule[key] for key in ("normalizer", "pre_tokenizer")}
    start = settings.get("bos_token") if settings.get("add_bos_token") is True else ""
    bpe = {**rule["model"], "vocab": tokens, "merges": merges}
    remark = f"{path} has no rule to split texts beside it, and is read as a {name}'s"
    return _written(bpe, [], rules, settings, start if isinstance(start, str) else ""), remark


def _written(
    bpe: Mapping[str, Any],
    added: list[dict[str, Any]],
    rules: Mapping[str, Any],
    settings: Fields,
    start: str,
) -> bytes:
    """Write a tokenizer.json, with the tokens that a folder adds to those of its vocabulary."""
    known = {token["id"]: token for token in added}
    for index, token in _further(settings):
        is_special = token.get("special") is True
        plain = _added_token(index, "", special=is_special, normalized=not is_special)
        known[index] = {**plain, **token}
    ids = [index for index, token in known.items() if token["content"] == start]
    first = {"SpecialToken": {"id": start, "type_id": 0}}
    text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    ahead = {
        "type": "TemplateProcessing",
        "single": [first, text[0]],
        "pair": [first, text[0], first, text[1]],
        "special_tokens": {start: {"id": start, "ids": ids, "tokens": [start] * len(ids)}},
    }
    has_start = ids and settings.get("add_bos_token") is not False
    return msgspec.json.encode(
        {
            "version": "1.0",
            "added_tokens": [known[index] for index in sorted(known)],
            **rules,
            "post_processor": ahead if has_start else None,
            "model": {"type": "BPE", **bpe},
        }
    )


_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _further(settings: Fields) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the tokens that tokenizer_config.json adds, by their ids."""
    listed = settings.get("added_tokens_decoder")
    for key, token in listed.items() if isinstance(listed, Mapping) else ():
        if isinstance(token, Mapping) and key.isdecimal():
            yield int(key), {name: token[name] for name in _ADDED if name in token}
