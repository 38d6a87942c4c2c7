"""What a folder's tokenizer.json and its neighbours say of special tokens.

Chat templates are programs; nothing here runs or even reads them.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.fields import Fields
from aobatch.models.importers.json_files import read_optional_fields
from aobatch.models.importers.special import (
    DOCUMENT_SEPARATOR,
    END_NAMES,
    INFILL_NAMES,
    SpecialTokens,
)

_MAX_BYTES = 256 * 2**20


class _Model(msgspec.Struct):
    type: str
    vocab: dict[str, int]


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    post_processor: dict[str, object] | None = None


def read_tokenizer(folder: Path, config: Fields, num_rows: int) -> tuple[bytes, SpecialTokens]:
    """Give tokenizer.json as it is, and the special tokens.

    Raises ModelError if there is none, it is no BPE, has more tokens than the embedding has rows,
    or nothing says what ends a text.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        message = f"{folder} has no tokenizer.json, which says how its model splits text"
        raise ModelError(message)
    content = path.read_bytes()
    try:
        file = msgspec.json.decode(content, type=_TokenizerFile)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"{path} is no tokenizer that can be used here ({error})"
        raise ModelError(message) from error
    tokens = file.model.vocab | {token.content: token.id for token in file.added_tokens}
    outside = [index for index in tokens.values() if not 0 <= index < num_rows]
    if file.model.type != "BPE" or outside:
        why = f"token {outside[0]} has no embedding" if outside else f"it is a {file.model.type}"
        message = f"{path} is no tokenizer that can be used here ({why})"
        raise ModelError(message)
    special = {token.content: token.id for token in file.added_tokens if token.special}
    return content, _special_tokens(_Sources(folder, config, tokens, special), file)


class _Sources:
    """The files that name special tokens."""

    def __init__(
        self, folder: Path, config: Fields, tokens: dict[str, int], special: dict[str, int]
    ) -> None:
        self.config = config
        self.generation = read_optional_fields(folder / "generation_config.json")
        self.tokenizer = read_optional_fields(folder / "tokenizer_config.json")
        self.tokens = tokens
        self.special = special

    def ids(self, name: str) -> Iterator[int]:
        """Yield the ids that any of the files gives to bos or eos, in their order."""
        for fields in (self.generation, self.config):
            value = fields.get(f"{name}_token_id")
            for index in value if isinstance(value, list) else [value]:
                if type(index) is int and 0 <= index <= max(self.tokens.values()):
                    yield index
        value = self.tokenizer.get(f"{name}_token")
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and content in self.tokens:
            yield self.tokens[content]


def _special_tokens(sources: _Sources, file: _TokenizerFile) -> SpecialTokens:
    named = {index for token, index in sources.special.items() if token in END_NAMES}
    end = sorted({*sources.ids("eos"), *named})
    if not end:
        sources.config.refuse("no file of the folder names the token that ends a text")
    start = next(sources.ids("bos"), end[0])
    added = _added_ahead(file)
    flag = sources.tokenizer.get("add_bos_token") is True
    if added in sources.tokens:
        start = sources.tokens[added]
    elif not flag:
        start = sources.tokens.get(DOCUMENT_SEPARATOR, start)
    infill = [
        next((sources.tokens[name] for name in names if name in sources.tokens), -1)
        for names in INFILL_NAMES.values()
    ]
    return SpecialTokens(
        tuple(end), start, flag or added in sources.tokens, () if -1 in infill else tuple(infill)
    )


def _added_ahead(file: _TokenizerFile) -> str:
    """Name the token that the post-processor puts ahead of a text; empty if it puts none."""
    waiting: list[object] = [file.post_processor]
    while waiting:
        processor = waiting.pop()
        if not isinstance(processor, dict):
            continue
        waiting.extend(processor.get("processors") or ())
        single = processor.get("single")
        if processor.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            match single[0]:
                case {"SpecialToken": {"id": str(name)}}:
                    return name
    return ""
