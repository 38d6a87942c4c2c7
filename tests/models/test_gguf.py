"""Laws of GGUF import: the same tokens and the same numbers as the model's own files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from aobatch.errors import ModelError
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner


def test_fp32_logits_are_those_of_the_reference(tiny_fp32: ModelFolder, data: Path) -> None:
    """The graph gives the reference implementation's logits at every position."""
    expected = np.load(data / "tiny-llama/expected.npz")
    runner = OnnxRunner(tiny_fp32.path / "model.onnx", 1)
    runner.reserve(1, 256, [])
    ids = expected["input_ids"]

    logits = runner.prefill([Chunk(0, 0, ids, len(ids))])
    np.testing.assert_allclose(expected["logits"], logits, atol=2e-4)


def test_greedy_decoding_follows_the_reference(tiny_fp32: ModelFolder, data: Path) -> None:
    """Prefill and decode together give the reference's greedy completion."""
    expected = np.load(data / "tiny-llama/expected.npz")
    runner = OnnxRunner(tiny_fp32.path / "model.onnx", 1)
    runner.reserve(1, 256, [])
    prompt, found = expected["greedy_prompt"], []
    logits = runner.prefill([Chunk(0, 0, prompt, 1)])
    for length in range(len(prompt), len(prompt) + 40):
        found.append(int(logits[0].argmax()))
        logits = runner.decode(np.array(found[-1:]), np.array([length]))

    assert expected["greedy_completion"].tolist() == found


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


def test_a_file_that_is_no_gguf_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Anything else than GGUF is a ModelError that names the file."""
    path = tmp_path / "not.gguf"
    path.write_bytes(b"not a model at all, sorry" * 10)

    with pytest.raises(ModelError, match=r"not\.gguf is not a readable GGUF file"):
        read_gguf(path)


def test_a_conversion_far_from_fp32_is_refused(
    convert_distorted: Callable[[str], ModelFolder], tmp_path: Path
) -> None:
    """A graph whose distributions differ by more than the gate allows becomes no model."""
    with pytest.raises(ModelError, match="too far from fp32"):
        convert_distorted("model.onnx")

    assert list(tmp_path.iterdir()) == []
