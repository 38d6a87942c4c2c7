"""What the files beside an exported graph say of it: sizes, context, special tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aobatch.models.checks.limits import MAX_WIDTH
from aobatch.models.exports.choice import GENAI_CONFIG
from aobatch.models.exports.layout import Hints
from aobatch.models.fields import Fields
from aobatch.models.importers.json_files import read_optional_fields

DEFAULT_CONTEXT = 2048
"""For a graph without any file that says how far its positions reach."""
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_TEXT_PARTS = ("text_config", "llm_config")


@dataclass(frozen=True, slots=True)
class Facts:
    """Sizes as the files state them, 0 where they do not."""

    hints: Hints
    hidden_size: int
    num_heads: int
    context_length: int
    tokens: Fields
    """`eos_token_id` and `bos_token_id` of all files together."""


def read_facts(folder: Path) -> Facts:
    """Read the descriptions of a folder; ModelError if one of them cannot be read."""
    config = read_optional_fields(folder / "config.json")
    parts = [config, *(config.section(key) for key in _TEXT_PARTS if key in config)]
    genai = read_optional_fields(folder / GENAI_CONFIG)
    model = genai.section("model") if "model" in genai else genai
    decoder = model.section("decoder") if "decoder" in model else model
    sources = [decoder, *reversed(parts), model]
    tokenizer = read_optional_fields(folder / "tokenizer_config.json")
    hidden = _first(sources, "hidden_size", "n_embd")
    heads = _first(sources, "num_attention_heads", "n_head")
    width = hidden // heads if heads else 0
    contexts = [
        *_sizes(sources, *_CONTEXTS),
        *_sizes([model], "context_length"),
        *_sizes([tokenizer], "model_max_length"),
    ]
    return Facts(
        hints=Hints(
            vocab_size=_first(sources, "vocab_size"),
            num_kv_heads=_first(sources, "num_key_value_heads") or heads,
            head_dim=_first(sources, "head_dim", "head_size") or width,
        ),
        hidden_size=hidden,
        num_heads=heads,
        context_length=min(contexts, default=DEFAULT_CONTEXT),
        tokens=_tokens(folder, [*parts, model]),
    )


def _sizes(sources: list[Fields], *names: str) -> Iterator[int]:
    """Yield what is a size; tokenizers without a limit state one of thirty digits."""
    for fields in sources:
        for name in names:
            value = fields.get(name)
            if type(value) is int and 0 < value <= MAX_WIDTH:
                yield value


def _first(sources: list[Fields], *names: str) -> int:
    return next(_sizes(sources, *names), 0)


def _tokens(folder: Path, sources: list[Fields]) -> Fields:
    """Join what configurations say; what generation_config.json says is joined where it is read."""
    values: dict[str, object] = {}
    for name in ("eos_token_id", "bos_token_id"):
        found = [fields.get(name) for fields in sources]
        flat = [x for value in found for x in (value if isinstance(value, list) else [value])]
        values[name] = [index for index in flat if type(index) is int]
    return Fields(values, str(folder))
