"""What a folder says beside its weights: the tokenizer with its special tokens, and the licence.

Chat templates are programs; nothing here runs them. What one says literally tells which of the
formats that are known here it writes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models import SpecialTokens
from aobatch.models.chat import format_of_template, texts_of_template
from aobatch.models.checks import MAX_TOKENIZER_BYTES, open_regular, printable, read_regular
from aobatch.models.checks.tokenizer import check_content
from aobatch.models.source.fields import Fields
from aobatch.models.source.infill import find_layout

_MAX_BYTES = 16 * 2**20


def read_fields(path: Path) -> Fields:
    """Read a file that holds one JSON object; ModelError if it is missing or anything else."""
    content = read_regular(path, _MAX_BYTES, follows_links=True)
    try:
        return Fields(msgspec.json.decode(content, type=dict[str, object]), str(path))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"{path} is no JSON object ({printable(str(error))})"
        raise ModelError(message) from error


def read_optional_fields(path: Path) -> Fields:
    """Read such a file; one that is missing holds nothing."""
    return read_fields(path) if path.exists() else Fields({}, str(path))


END_NAMES = frozenset(
    (
        *("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        *("<|end|>", "<|eot|>", "<end_of_turn>", "<|end_of_turn|>", "<end_of_utterance>"),
        *("<eos>", "</s>", "<｜end▁of▁sentence｜>", "▁<EOT>", "<EOT>"),
        *("<|file_separator|>",),
    )
)
"""The names under which models end a document, a turn or an infill.

Whatever a model's files say, a special token of such a name ends a completion too: models that chat
state one end, and use another.
"""
_ALSO_MARKUP = frozenset(("</s>", "<eos>", "<EOT>"))
"""What is also written in texts; vocabularies have it as a token that is not special."""

DOCUMENT_SEPARATOR = "<|endoftext|>"


def is_end(name: str, *, is_special: bool) -> bool:
    """Say whether an added token ends a text, by its name."""
    return name in END_NAMES and (is_special or name not in _ALSO_MARKUP)


UNKNOWN = "unknown"
_MAX_LICENCE_BYTES = 64 * 2**10
_MAX_LENGTH = 100
_HEADING = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.M | re.S)
_FIELD = re.compile(r"^(license|license_name):[ \t]*(.*?)[ \t]*$", re.M)
_ITEMS = re.compile(r"^license:[ \t]*\n((?:[ \t]*-[ \t]+.*\n?)+)", re.M)
_FILE = re.compile(r"(licen[sc]e|copying|notice)([.-].*)?|use_policy\.md", re.I)


def read_licence(folder: Path) -> str:
    """Read the name of the licence, the file that has its text, or `unknown`."""
    if stated := _stated_licence(folder / "README.md"):
        return stated
    names = [path.name for path in folder.iterdir() if _FILE.fullmatch(path.name)]
    names.sort(key=lambda name: (not name.lower().startswith("licen"), len(name), name))
    return f"see {printable(names[0])}" if names else UNKNOWN


def _stated_licence(readme: Path) -> str:
    """Read what stands between the first two lines of dashes; empty if that names no licence."""
    try:
        with open_regular(readme, follows_links=True) as (file, _):
            text = file.read(_MAX_LICENCE_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except (ModelError, OSError):
        return ""
    found = _HEADING.match(text.removeprefix("\ufeff"))
    heading = found[1] if found else ""
    fields = dict(_FIELD.findall(heading))
    licence = fields.get("license", "").strip("\"'")
    if licence == "other":
        licence = fields.get("license_name", "").strip("\"'")
    if not licence and (items := _ITEMS.search(heading)):
        licence = ", ".join(item.strip(" \t-\"'") for item in items[1].splitlines())
    licence = licence.strip("[] ")
    return printable(licence) if len(licence) <= _MAX_LENGTH else ""


class _PostProcessing(msgspec.Struct):
    post_processor: dict[str, object] | None = None


def read_tokenizer(folder: Path, config: Fields, num_rows: int) -> tuple[bytes, SpecialTokens, str]:
    """Read tokenizer.json as it is, or what stands for it, and the special tokens.

    The last is a warning, empty for a tokenizer.json and what is sure to split as it would.

    Raises ModelError if there is none, it is no BPE, has more tokens than the embedding has rows,
    or nothing says what ends a text.
    """
    settings = read_optional_fields(folder / "tokenizer_config.json")
    path, content, remark = _tokenizer(folder, settings, config)
    file = check_content(content, path, num_rows)
    added = [(x.content, x.id, x.special is True) for x in file.added_tokens]
    tokens = file.model.vocab | {name: index for name, index, _ in added}
    by_id = (read_optional_fields(folder / "generation_config.json"), config)
    by_name = (settings, read_optional_fields(folder / "special_tokens_map.json"))
    named = {index for name, index, is_special in added if is_end(name, is_special=is_special)}
    end = sorted({*_named_ids("eos", by_id, by_name, tokens), *named})
    if not end:
        config.refuse("no file of the folder names the token that ends a text")
    ahead = _added_ahead(msgspec.json.decode(content, type=_PostProcessing).post_processor)
    adds_start = ahead in tokens or settings.get("add_bos_token") is True
    stated = next(_named_ids("bos", by_id, by_name, tokens), end[0])
    start = tokens.get(ahead, stated)
    if not adds_start:
        start = tokens.get(DOCUMENT_SEPARATOR, start)
    layout = find_layout(tokens)
    infill = tuple(tokens[name] for name in layout.names.values()) if layout else ()
    order = layout.order if layout else "PSM"
    chat_format = _chat_format(folder, settings, tokens)
    special = SpecialTokens(tuple(end), start, adds_start, infill, chat_format, order)
    return content, special, remark


def _tokenizer(folder: Path, settings: Fields, config: Fields) -> tuple[Path, bytes, str]:
    """Give the tokenizer.json of a folder, or make one of the file that it has, named first."""
    # Caches keep files behind links.
    path = (folder / "tokenizer.json").resolve()
    if path.exists():
        return path, read_regular(path, MAX_TOKENIZER_BYTES), ""
    # What has one is found without these.
    from aobatch.models.source.pieces import MERGES, PIECES, VOCABULARY, merges_json, pieces_json

    if (folder / PIECES).exists():
        return folder / PIECES, *pieces_json(folder / PIECES, settings)
    if not ((folder / VOCABULARY).exists() and (folder / MERGES).exists()):
        config.refuse(
            f"its folder has neither tokenizer.json nor {PIECES} nor {VOCABULARY} with {MERGES}, "
            "which say how the model splits text; get the whole folder"
        )
    return folder / VOCABULARY, *merges_json(folder, settings)


def _chat_format(folder: Path, settings: Fields, tokens: Mapping[str, int]) -> str:
    """Tell the format of chats from the template of a folder, `none` if there is none."""
    path = folder / "chat_template.jinja"
    written = read_regular(path, _MAX_BYTES, follows_links=True) if path.is_file() else b""
    texts = [written.decode("utf-8", "replace"), settings.get("chat_template")]
    template = next((text for found in texts for text in texts_of_template(found) if text), "")
    return format_of_template(template, tokens)


def _named_ids(
    name: str, by_id: Iterable[Fields], by_name: Iterable[Fields], tokens: Mapping[str, int]
) -> Iterator[int]:
    """Yield the ids that any file gives to bos or eos, by number or by text, in their order."""
    known = {*tokens.values()}
    for fields in by_id:
        value = fields.get(f"{name}_token_id")
        for index in value if isinstance(value, list) else [value]:
            if type(index) is int and index in known:
                yield index
    for fields in by_name:
        value = fields.get(f"{name}_token")
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and content in tokens:
            yield tokens[content]


def _added_ahead(post_processor: object) -> str:
    """Name the token that a post-processor puts ahead of a text; empty if it puts none."""
    match post_processor:
        case {"type": "Sequence", "processors": [*processors]}:
            return next(filter(None, map(_added_ahead, processors)), "")
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(name)}}, *_]}:
            return name
    return ""
