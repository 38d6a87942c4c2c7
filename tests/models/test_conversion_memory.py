"""Laws of conversion: weights go through memory, they do not stay there."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from family_files import published
from safetensors.numpy import save_file

from aobatch.models import PRECISIONS
from aobatch.models.convert.convert import convert, write_graph
from aobatch.models.convert.graph import StagedDecoder
from aobatch.models.convert.precisions import FP32, recipes
from aobatch.models.convert.writer import append_tensor
from aobatch.models.source.adapter import merge_adapter
from aobatch.models.source.decoder import decoder_shapes
from aobatch.models.spec import Checkpoint, Weight
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners.scoring import score_texts

NUM_LAYERS = 24
VOCAB_SIZE = 2**17


class LargeCheckpoint:
    """The tiny gemma's kind of model, with many tokens and layers; its weights are made up."""

    def __init__(self, folder: Path) -> None:
        tiny = read_checkpoint(published("gemma3", folder / "tiny"))
        spec = replace(
            tiny.spec,
            vocab_size=VOCAB_SIZE,
            num_layers=NUM_LAYERS,
            attentions=tiny.spec.attentions * (NUM_LAYERS // 6),
            intermediate_size=4096,
        )
        self._shapes = decoder_shapes(spec)
        self.checkpoint = replace(tiny, spec=spec, load=self.load)

    def load(self, name: str, start: int = 0, stop: int | None = None) -> Weight:
        """Give rows of a weight."""
        rows, *columns = self._shapes[name]
        return np.full((len(range(rows)[start:stop]), *columns), 0.01, np.float32)


@pytest.fixture
def large(tmp_path: Path) -> Checkpoint:
    """Give a model whose float32 weights take 110 MB, of which the table is 34."""
    return LargeCheckpoint(tmp_path).checkpoint


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_peak_is_a_part_of_the_weights(
    precision: str, large: Checkpoint, tmp_path: Path
) -> None:
    """Conversion needs the largest matrix and what is made of it, whatever the number of layers."""
    way = next(iter(recipes(precision, large.spec).values()))
    tracemalloc.start()
    write_graph(large, tmp_path / "graph", way, lambda *_: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    table = 4 * large.spec.vocab_size * large.spec.hidden_size
    assert peak < 1.5 * table + 16 * 2**20
    assert (tmp_path / "graph/model.onnx").stat().st_size < 2**20


def test_adapters_are_merged_some_rows_at_a_time(large: Checkpoint, tmp_path: Path) -> None:
    """An adapter of the table and of every layer needs little more than its largest part."""
    chance, spec, rank = np.random.default_rng(0), large.spec, 8
    tensors = {
        "embed_tokens.lora_embedding_A": (rank, spec.vocab_size),
        "embed_tokens.lora_embedding_B": (spec.hidden_size, rank),
    }
    for index in range(NUM_LAYERS):
        name = f"layers.{index}.mlp.down_proj"
        tensors[f"{name}.lora_A.weight"] = (rank, spec.intermediate_size)
        tensors[f"{name}.lora_B.weight"] = (spec.hidden_size, rank)
    (tmp_path / "lora").mkdir()
    save_file(
        {
            f"base_model.model.model.{name}": chance.random(shape, np.float32)
            for name, shape in tensors.items()
        },
        tmp_path / "lora/adapter_model.safetensors",
    )
    (tmp_path / "lora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    tracemalloc.start()
    write_graph(merge_adapter(large, tmp_path / "lora"), tmp_path / "graph", FP32, lambda *_: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    table, factor = 4 * spec.vocab_size * spec.hidden_size, 4 * spec.vocab_size * rank
    assert peak < 1.5 * table + 2 * factor + 16 * 2**20


def test_full_precision_takes_a_layer_at_a_time(large: Checkpoint) -> None:
    """What graphs are compared with is computed without all of a model's weights anywhere."""
    tracemalloc.start()
    (logits,) = score_texts.reference(StagedDecoder(large), [np.arange(8)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    table = 4 * large.spec.vocab_size * large.spec.hidden_size
    assert logits.shape == (8, VOCAB_SIZE)
    assert peak < 1.5 * table + 16 * 2**20


def test_a_conversion_writes_the_model_and_no_more(tmp_path: Path) -> None:
    """Beside a source there is at no time more on disk than what stays."""
    checkpoint = read_checkpoint(published("llama", tmp_path / "tiny"))
    before, peak = used(tmp_path), [0]

    def look(*_: object) -> None:
        peak.append(used(tmp_path) - before)

    folder = convert(
        checkpoint, tmp_path / "model", precision="int8", scorer=score_texts, progress=look
    )

    assert 0 < max(peak) <= folder.size_bytes


def used(folder: Path) -> int:
    """Count the bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_progress_is_that_of_the_weights(precision: str, large: Checkpoint, tmp_path: Path) -> None:
    """A bar counts weights as they are read, in small steps, and ends with the last of them."""
    read: dict[str, int] = {}

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = large.load(name, start, stop)
        read[name] = read.get(name, 0) + weight.size
        return weight

    seen, total = [], sum(prod(shape) for shape in decoder_shapes(large.spec).values())
    way = next(iter(recipes(precision, large.spec).values()))
    write_graph(
        replace(large, load=load),
        tmp_path / "graph",
        way,
        lambda _, done, all_of_it: seen.append((done, all_of_it, sum(read.values()))),
    )

    assert seen[-1][0] == total
    assert {row[1] for row in seen} == {total}
    assert all(done <= loaded for done, _, loaded in seen)
    # Two threads may have read what the other one is about to tell.
    assert max(loaded - done for done, _, loaded in seen) <= 2 * 4096 * 64
    steps = np.diff([done for done, _, _ in seen])
    assert steps.min() >= 0
    assert steps.max() <= total / 100


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    """Arrays that come whole or in rows are read back by ONNX as they were."""
    chance = np.random.default_rng(0)
    first, second = chance.random((7, 5), np.float32), chance.integers(0, 9, (300, 3), np.int8)

    def rows() -> Iterator[np.ndarray]:
        yield from np.split(second, 3)

    with (tmp_path / "data").open("wb") as file:
        stored = [
            append_tensor(file, "a", (7, 5), [first]),
            append_tensor(file, "b", (300, 3), rows()),
        ]
    for expected, tensor in zip((first, second), stored, strict=True):
        assert isinstance(tensor, ir.ExternalTensor)
        np.testing.assert_array_equal(expected, tensor.numpy())


def test_conversion_is_the_same_every_time(tmp_path: Path) -> None:
    """Two conversions of one model give the same bytes."""
    checkpoint = read_checkpoint(published("qwen2", tmp_path / "tiny"))
    for name in ("one", "two"):
        write_graph(checkpoint, tmp_path / name, FP32, lambda *_: None)

    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
