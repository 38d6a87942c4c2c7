"""The mistral family: as llama, but every layer sees a window of the last tokens."""

from dataclasses import replace

from aobatch.models.source.config import WINDOWS, require, with_windows
from aobatch.models.source.decoder import config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec

GGUF_PAIRS_NEIGHBOURS = True
GAIN_OFFSET = 0.0

_DEFAULT_WINDOW = 4096


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    spec = gguf_spec(fields, "mistral", vocab_size)
    key = "mistral.attention.sliding_window"
    window = fields.integer(key, *WINDOWS) if key in fields else 0
    return with_windows(spec, [window] * spec.num_layers)


def spec_from_config(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json; a window of null is none."""
    require(fields, "hidden_act", "silu")
    require(fields, "attention_bias", value=False)
    spec = config_spec(fields, "mistral", vocab_size)
    is_whole = fields.is_stated("sliding_window") and "sliding_window" not in fields
    window = 0 if is_whole else fields.integer("sliding_window", *WINDOWS, _DEFAULT_WINDOW)
    spec = with_windows(spec, [window] * spec.num_layers)
    return replace(spec, is_tied=fields.flag("tie_word_embeddings", default=False))
