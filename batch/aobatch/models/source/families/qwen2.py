"""The qwen2 family: as llama, with biases on queries, keys and values."""

from dataclasses import replace

from aobatch.models.source.config import qwen_windows, require
from aobatch.models.source.decoder import config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec

GGUF_PAIRS_NEIGHBOURS = False
GAIN_OFFSET = 0.0


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    return replace(gguf_spec(fields, "qwen2", vocab_size), biases=frozenset("qkv"))


def spec_from_config(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json."""
    require(fields, "hidden_act", "silu")
    require(fields, "attention_bias", value=True)
    return replace(
        qwen_windows(fields, config_spec(fields, "qwen2", vocab_size)),
        biases=frozenset("qkv"),
        is_tied=fields.flag("tie_word_embeddings", default=False),
    )
