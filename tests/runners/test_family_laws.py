"""Laws of the runner for every family and precision: a row depends on its own tokens alone."""

from pathlib import Path

import numpy as np
import pytest
from family_files import FAMILIES, published

from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.precisions import block_int8, recipes
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner

TOKENS = np.random.default_rng(4).integers(4, 512, (30, 100))
PRECISIONS = ("fp32", "int8", "nbits8")
STEPS = 3


@pytest.fixture(
    scope="module", params=[(family, name) for family in FAMILIES for name in PRECISIONS]
)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give each family's tiny model in each precision; prompts are longer than its windows."""
    family, name = request.param
    folder = tmp_path_factory.mktemp("law")
    checkpoint = read_checkpoint(published(family, folder / "tiny"))
    way = next(iter(recipes(name, checkpoint.spec).values()))
    write_graph(checkpoint, folder / "graph", way, lambda *_: None)
    return folder / "graph/model.onnx"


def computed(graph: Path, rows: list[int], threads: int, cut: int = 0) -> np.ndarray:
    """Prefill ragged prompts, decode some steps; give the logits of row 3 throughout."""
    runner = OnnxRunner(graph, threads)
    runner.reserve(len(rows), 256, [])
    sizes = np.array([40 + (row * 17) % 55 for row in rows])
    if cut:
        runner.prefill([Chunk(i, 0, TOKENS[row, :cut], 0) for i, row in enumerate(rows)])
    chunks = [Chunk(i, cut, TOKENS[row, cut : sizes[i]], 1) for i, row in enumerate(rows)]
    place = rows.index(3)
    found = np.empty((1 + STEPS, runner.vocab_size), np.float32)
    found[0] = runner.prefill(chunks)[place]
    for step in range(STEPS):
        found[1 + step] = runner.decode(TOKENS[rows, 96 + step], sizes + step)[place]
    return found


def test_neighbours_threads_and_chunks_change_no_bit(graph: Path) -> None:
    """Alone, among 30 ragged rows, on two threads and in two chunks: the same bits."""
    alone = computed(graph, [3], 1)

    np.testing.assert_array_equal(alone, computed(graph, [*range(30)], 1))
    np.testing.assert_array_equal(alone, computed(graph, [2, 3, 7], 2))
    np.testing.assert_array_equal(alone, computed(graph, [3], 1, cut=33))
    np.testing.assert_array_equal(alone, computed(graph, [1, 3], 2, cut=2))


def test_prompts_may_be_cut_anywhere(graph: Path) -> None:
    """The trial that the engine makes before it shares prefixes succeeds."""
    assert OnnxRunner(graph, 1).splits_freely


def test_blocks_of_a_rotatable_family_are_rows_of_their_own(tmp_path: Path) -> None:
    """The second way of int8 keeps the laws, too."""
    checkpoint = read_checkpoint(published("llama", tmp_path / "tiny"))
    write_graph(checkpoint, tmp_path / "graph", block_int8(64), lambda *_: None)
    graph = tmp_path / "graph/model.onnx"

    np.testing.assert_array_equal(computed(graph, [3], 1), computed(graph, [*range(30)], 2))
