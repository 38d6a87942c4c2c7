"""The llama family: RMSNorm, rotary positions, grouped-query attention, gated SiLU."""

from dataclasses import replace

from aobatch.models.source.config import WINDOWS, config_biases, require, with_windows
from aobatch.models.source.decoder import config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec

GGUF_PAIRS_NEIGHBOURS = True
GAIN_OFFSET = 0.0


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    spec = gguf_spec(fields, "llama", vocab_size)
    key = "llama.attention.sliding_window"  # models of the mistral family call themselves llama
    window = fields.integer(key, *WINDOWS) if key in fields else 0
    return with_windows(spec, [window] * spec.num_layers)


def spec_from_config(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json."""
    require(fields, "hidden_act", "silu")
    return replace(
        config_spec(fields, "llama", vocab_size),
        biases=config_biases(fields),
        is_tied=fields.flag("tie_word_embeddings", default=False),
    )
