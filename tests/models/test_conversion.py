"""Laws of conversion: what can be imported is measured, however odd it is, or refused."""

from pathlib import Path

import numpy as np
import pytest
from family_files import converted
from gguf_writing import Gguf, i32s, small_llama, texts, u32

from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import open_engine
from aobatch.models.convert.quality import affordable, quality_chunks
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import RunnerConfig


def converted_file(file: Gguf, folder: Path) -> ModelFolder:
    """Convert a file to fp32."""
    return converted(read_gguf(file.write(folder / "file.gguf")), folder / "model")


@pytest.mark.parametrize("context_length", [16, 64])
def test_a_short_context_is_measured_in_short_pieces(context_length: int, tmp_path: Path) -> None:
    """A context shorter than the pieces that the shipped text is cut into is no obstacle."""
    file = small_llama()
    file.fields["llama.context_length"] = u32(context_length)
    folder = converted_file(file, tmp_path)
    chunks = quality_chunks(load_tokenizer(folder), folder.manifest.context_length)

    assert folder.manifest.context_length == context_length
    assert {len(chunk) for chunk in chunks} == {context_length}


@pytest.mark.parametrize(
    ("vocab_size", "num_weights", "num_chunks"),
    [(49_152, 163e6, 20), (128_256, 1.5e9, 8), (128_256, 8e9, 4), (128_256, 70e9, 1)],
)
def test_large_models_are_measured_by_less_text(
    vocab_size: int, num_weights: float, num_chunks: int
) -> None:
    """Neither logits nor products are too many, and pieces of the whole text are taken."""
    chunks = list(np.arange(5120).reshape(20, 256))
    chosen = affordable(chunks, vocab_size, int(num_weights))

    assert len(chosen) == num_chunks
    assert chosen[0] is chunks[0]
    assert num_chunks == 1 or chosen[-1] is chunks[-1]


@pytest.mark.parametrize("context_length", [1, 16, 100])
def test_a_context_of_any_length_can_be_filled(context_length: int, tmp_path: Path) -> None:
    """A model computes up to its last place, also where slots have more places than it has."""
    file = small_llama()
    file.fields["llama.context_length"] = u32(context_length)
    folder = converted_file(file, tmp_path)
    num_new = min(context_length - 1, 9)
    prompt = [1 + place % 8 for place in range(context_length - num_new)]

    engine = open_engine(folder, EngineConfig(), RunnerConfig(1))
    (result,) = engine.complete([prompt], max_tokens=num_new, echo=True, ignore_eos=True)

    assert result.error is None
    assert result.usage.total_tokens == context_length


def test_a_vocabulary_without_letters_is_refused(tmp_path: Path) -> None:
    """A vocabulary in which the shipped text has no token cannot be measured."""
    file = small_llama()
    file.fields["tokenizer.ggml.tokens"] = texts(["<|endoftext|>"])
    file.fields["tokenizer.ggml.token_type"] = i32s([3])
    file.fields["tokenizer.ggml.merges"] = texts([])

    with pytest.raises(ModelError, match="no token for any letter"):
        converted(read_gguf(file.write(tmp_path / "file.gguf")), tmp_path / "model", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["file.gguf"]
