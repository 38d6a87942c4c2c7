"""model.toml: what a model folder says about itself."""

from pathlib import Path

import msgspec
import tomli_w

from aobatch.errors import ModelError

FORMAT = 1
"""The layout of a model folder; a folder of another layout is converted anew."""


class Quality(msgspec.Struct, frozen=True):
    """How close a precision is to the fp32 graph of the same weights, on the shipped text."""

    kl: float
    """Mean Kullback-Leibler divergence KL(fp32 || this), in nats a token."""
    top1_agreement: float
    num_tokens: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is to be known of a model without opening its graph."""

    format: int
    name: str
    family: str
    precision: str
    licence: str
    source: str
    source_sha256: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    document_start_token_id: int
    adds_document_start: bool
    infill_token_ids: tuple[int, ...]
    """Ahead of a prefix, a suffix and the middle; empty if there are no such tokens."""
    digest: str
    """sha256 over the graph, its data and the tokenizer."""
    quality: Quality | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values that one token keeps in the cache."""
        return 2 * 4 * self.num_layers * self.num_kv_heads * self.head_dim


def read_manifest(path: Path) -> Manifest:
    """Read a model.toml; ModelError says what is wrong with it."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        message = f"{path} is not a readable model description: {error}"
        raise ModelError(message) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a model.toml."""
    fields = {
        key: value for key, value in msgspec.to_builtins(manifest).items() if value is not None
    }
    path.write_text(tomli_w.dumps(fields), encoding="utf-8")
