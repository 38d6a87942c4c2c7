"""The qwen3 family: as llama, with a norm on each head's queries and keys."""

from dataclasses import replace

from aobatch.models.source.config import config_biases, qwen_windows, require
from aobatch.models.source.decoder import HEAD_DIM, config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec

GGUF_PAIRS_NEIGHBOURS = False
GAIN_OFFSET = 0.0


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    return replace(gguf_spec(fields, "qwen3", vocab_size), has_head_norms=True)


def spec_from_config(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json, which has to state the width of heads."""
    require(fields, "hidden_act", "silu")
    fields.integer("head_dim", *HEAD_DIM)
    return replace(
        qwen_windows(fields, config_spec(fields, "qwen3", vocab_size)),
        biases=config_biases(fields),
        is_tied=fields.flag("tie_word_embeddings", default=False),
        has_head_norms=True,
    )
