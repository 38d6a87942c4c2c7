"""What is to be known of a model, whether it was converted or is still a file of its author's."""

from collections.abc import Iterable

import msgspec

from aobatch.models.checks.tokenizer_parts import TokenizerFile
from aobatch.models.manifest import Int8Cache, Quality


class CacheFacts(msgspec.Struct, frozen=True):
    """What keys and values of one type take."""

    bytes_per_token: int
    bytes_per_slot: int
    """For a sequence that fills the context."""


class ModelFacts(msgspec.Struct, frozen=True):
    """One model; None where nothing says it."""

    name: str
    path: str
    layout: str
    """What kind of file or folder it is."""
    is_usable: bool
    """Whether jobs can run with it, or, if it is not converted, whether it can be."""
    reason: str
    """Why it is not usable."""
    family: str
    size_bytes: int
    dtypes: dict[str, int]
    """Bytes of weights by how they are stored, the most first."""
    licence: str = "unknown"
    source: str = ""
    source_sha256: str = ""
    digest: str = ""
    precision: str = ""
    recipe: str = ""
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    context_length: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    document_start_token_id: int | None = None
    adds_document_start: bool = False
    infill_token_ids: tuple[int, ...] = ()
    token_texts: dict[int, str] = {}
    """How the vocabulary writes the tokens above."""
    kv_cache: dict[str, CacheFacts] = {}
    """By the type of keys and values."""
    quality: Quality | None = None
    int8_cache: Int8Cache | None = None
    converted_bytes: dict[str, int] = {}
    """What it will take about after conversion, by precision; nothing if it is converted."""


def cache_facts(
    num_layers: int, num_kv_heads: int, head_dim: int, context_length: int
) -> dict[str, CacheFacts]:
    """Give what keys and values of each type take."""
    numbers = 2 * num_layers * num_kv_heads * head_dim
    sizes = {"fp32": 4 * numbers, "int8": numbers}
    return {
        name: CacheFacts(per_token, per_token * context_length) for name, per_token in sizes.items()
    }


def token_texts(file: TokenizerFile, token_ids: Iterable[int]) -> dict[int, str]:
    """Give how a vocabulary writes tokens."""
    listed = file.model.vocab | {token.content: token.id for token in file.added_tokens}
    texts = {token_id: text for text, token_id in listed.items()}
    return {token_id: texts.get(token_id, "") for token_id in sorted(token_ids)}
