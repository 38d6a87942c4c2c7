"""Laws of GGUF import: the same tokens and the same numbers as the model's own files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from aobatch.errors import ModelError
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    "text", ["Hello, world! 123", "春风 <|endoftext|> x", "", "\n\n  a\u0000b"]
)
def test_tokens_are_those_of_the_models_own_tokenizer(
    tiny_fp32: ModelFolder, data: Path, text: str
) -> None:
    """The vocabulary out of the GGUF splits text as the original tokenizer.json does."""
    original = Tokenizer.from_file(str(data / "tiny-llama/tokenizer.json"))

    assert original.encode(text).ids == load_tokenizer(tiny_fp32).encode(text).tolist()


def test_token_bytes_join_to_the_text(tiny_fp32: ModelFolder) -> None:
    """Every text is the joined bytes of its tokens."""
    tokenizer = load_tokenizer(tiny_fp32)
    text = "Every byte: é 春 🙂 \t <|endoftext|>"

    joined = b"".join(tokenizer.token_bytes[index] for index in tokenizer.encode(text))
    assert text == joined.decode()


def test_the_description_names_sizes_and_origin(tiny_int8: ModelFolder) -> None:
    """model.toml holds what the GGUF said, and the measured quality."""
    manifest = tiny_int8.manifest

    assert (
        manifest.family,
        manifest.precision,
        manifest.vocab_size,
        manifest.num_layers,
    ) == ("llama", "int8", 512, 3)
    assert manifest.eos_token_ids == (0,)
    assert manifest.quality is not None
    assert 0 < manifest.quality.kl < 0.02


def test_a_conversion_far_from_fp32_is_refused(
    convert_distorted: Callable[[str], ModelFolder], tmp_path: Path
) -> None:
    """A graph whose distributions differ by more than the gate allows becomes no model."""
    with pytest.raises(ModelError, match="too far from fp32"):
        convert_distorted("model.onnx")

    assert list(tmp_path.iterdir()) == []
