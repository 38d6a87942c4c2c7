"""What a folder's tokenizer.json and its neighbours say of special tokens.

Chat templates are programs; nothing here runs or even reads them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from aobatch.models.checks.files import read_regular
from aobatch.models.checks.limits import MAX_TOKENIZER_BYTES
from aobatch.models.checks.tokenizer import check_tokenizer
from aobatch.models.fields import Fields
from aobatch.models.importers.json_files import read_optional_fields
from aobatch.models.importers.special import (
    DOCUMENT_SEPARATOR,
    INFILL_NAMES,
    SpecialTokens,
    is_end,
)


class _PostProcessing(msgspec.Struct):
    post_processor: dict[str, object] | None = None


def read_tokenizer(folder: Path, config: Fields, num_rows: int) -> tuple[bytes, SpecialTokens]:
    """Give tokenizer.json as it is, and the special tokens.

    Raises ModelError if there is none, it is no BPE, has more tokens than the embedding has rows,
    or nothing says what ends a text.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        config.refuse("its folder has no tokenizer.json, which says how the model splits text")
    # Caches keep files behind links.
    path = path.resolve()
    file = check_tokenizer(path, num_rows)
    content = read_regular(path, MAX_TOKENIZER_BYTES)
    tokens = file.model.vocab | {token.content: token.id for token in file.added_tokens}
    sources = _Sources(folder, config, tokens)
    named = {
        token.id
        for token in file.added_tokens
        if is_end(token.content, is_special=token.special is True)
    }
    end = sorted({*sources.ids("eos"), *named})
    if not end:
        config.refuse("no file of the folder names the token that ends a text")
    ahead = _added_ahead(msgspec.json.decode(content, type=_PostProcessing).post_processor)
    adds_start = ahead in tokens or sources.tokenizer.get("add_bos_token") is True
    start = tokens.get(ahead, next(sources.ids("bos"), end[0]))
    if not adds_start:
        start = tokens.get(DOCUMENT_SEPARATOR, start)
    return content, SpecialTokens(tuple(end), start, adds_start, _infill(tokens))


class _Sources:
    """The files that name special tokens."""

    def __init__(self, folder: Path, config: Fields, tokens: Mapping[str, int]) -> None:
        self._config = config
        self._generation = read_optional_fields(folder / "generation_config.json")
        self._tokens = tokens
        self._ids = {*tokens.values()}
        self._map = read_optional_fields(folder / "special_tokens_map.json")
        self.tokenizer = read_optional_fields(folder / "tokenizer_config.json")

    def ids(self, name: str) -> Iterator[int]:
        """Yield the ids that any of the files gives to bos or eos, in their order."""
        for fields in (self._generation, self._config):
            value = fields.get(f"{name}_token_id")
            for index in value if isinstance(value, list) else [value]:
                if type(index) is int and index in self._ids:
                    yield index
        for fields in (self.tokenizer, self._map):
            value = fields.get(f"{name}_token")
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str) and content in self._tokens:
                yield self._tokens[content]


def _infill(tokens: Mapping[str, int]) -> tuple[int, ...]:
    found = [
        next((tokens[name] for name in names if name in tokens), None)
        for names in INFILL_NAMES.values()
    ]
    return tuple(index for index in found if index is not None) if None not in found else ()


def _added_ahead(post_processor: object) -> str:
    """Name the token that a post-processor puts ahead of a text; empty if it puts none."""
    match post_processor:
        case {"type": "Sequence", "processors": [*processors]}:
            return next(filter(None, map(_added_ahead, processors)), "")
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(name)}}, *_]}:
            return name
    return ""
