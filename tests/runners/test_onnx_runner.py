"""Laws of the runner: a slot's logits depend on its own tokens alone, bit by bit."""

from pathlib import Path

import numpy as np
import pytest

from aobatch.errors import ModelError
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.session import integer_entries, open_session

MODELS = ("tiny_fp32", "tiny_int8")
TOKENS = np.random.default_rng(1).integers(4, 512, (70, 40))


@pytest.fixture(params=[(model, cache) for model in MODELS for cache in ("fp32", "int8")])
def graph(request: pytest.FixtureRequest) -> Path:
    """Give the tiny model's graph in each precision, over a cache of each type."""
    model, cache_dtype = request.param
    folder: ModelFolder = request.getfixturevalue(model)
    return folder.graph(cache_dtype)


def computed(graph: Path, rows: list[int], threads: int, capacity: int) -> np.ndarray:
    """Prefill ragged prompts of some rows, decode three steps; give row 5's logits, [4, V]."""
    runner = OnnxRunner(graph, threads)
    runner.reserve(len(rows), capacity, [])
    sizes = np.array([10 + (row * 7) % 20 for row in rows])
    chunks = [Chunk(i, 0, TOKENS[row, : sizes[i]], 1) for i, row in enumerate(rows)]
    place, found = rows.index(5), []
    found.append(runner.prefill(chunks)[place].copy())
    for step in range(3):
        ids = np.array([TOKENS[row, 30 + step] for row in rows])
        found.append(runner.decode(ids, sizes + step)[place].copy())
    return np.stack(found)


@pytest.mark.parametrize(
    ("rows", "threads", "capacity"),
    [
        pytest.param([*range(1, 8)], 1, 256, id="7-rows"),
        pytest.param([*range(64)], 2, 256, id="64-rows-2-threads"),
        pytest.param([5], 2, 512, id="alone-larger-cache"),
    ],
)
def test_a_row_alone_is_the_row_in_a_batch(
    graph: Path, rows: list[int], threads: int, capacity: int
) -> None:
    """Neighbours, threads and the size of the cache change no bit."""
    alone = computed(graph, [5], 1, 256)

    np.testing.assert_array_equal(alone, computed(graph, rows, threads, capacity))


def test_chunks_change_nothing(graph: Path) -> None:
    """A prompt in chunks of two or more tokens gives the bits of the prompt at once."""
    runner = OnnxRunner(graph, 1)
    runner.reserve(2, 256, [])
    whole = runner.prefill([Chunk(0, 0, TOKENS[0], 1)]).copy()
    runner.prefill(
        [
            Chunk(1, 0, TOKENS[0, :17], 0),
        ]
    )
    parts = runner.prefill([Chunk(1, 17, TOKENS[0, 17:], 1)])

    np.testing.assert_array_equal(whole, parts)


def test_copies_and_growth_keep_what_a_slot_holds(graph: Path) -> None:
    """A copied slot, in a cache that was made larger, goes on as the original would."""
    runner = OnnxRunner(graph, 1)
    runner.reserve(1, 256, [])
    runner.prefill([Chunk(0, 0, TOKENS[0], 1)])
    expected = runner.decode(TOKENS[1, :1], np.array([40])).copy()
    runner.reserve(3, 512, [40])
    runner.copy(0, 2, 40)
    runner.copy(2, 1, 40)
    found = runner.decode(TOKENS[[3, 1], 0], np.array([40, 40]))

    np.testing.assert_array_equal(expected[0], found[1])


def test_wanted_logits_are_the_last_ones(graph: Path) -> None:
    """num_logits picks the last positions of each chunk, in the order of the chunks."""
    runner = OnnxRunner(graph, 1)
    runner.reserve(2, 256, [])
    every = runner.prefill([Chunk(0, 0, TOKENS[0], 40), Chunk(1, 0, TOKENS[1, :9], 9)]).copy()
    some = runner.prefill([Chunk(0, 0, TOKENS[0], 2), Chunk(1, 0, TOKENS[1, :9], 1)])

    np.testing.assert_array_equal(every[[38, 39, 48]], some)


def test_integer_products_are_exact_here() -> None:
    """The self-test finds a way to multiply that is exact on this processor."""
    assert integer_entries() in ((), (("session.x64quantprecision", "1"),))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """A broken model.onnx is a ModelError that names the file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")

    with pytest.raises(ModelError, match=r"model\.onnx is refused: it is no ONNX graph"):
        OnnxRunner(path, 1)


def test_a_failing_session_writes_nothing(
    tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error without a word is a ModelError, and standard output is the job's alone."""

    def fail(*_: object) -> None:
        raise RuntimeError

    native = "onnxruntime.capi.onnxruntime_inference_collection.C.InferenceSession"
    monkeypatch.setattr(native, fail)
    with pytest.raises(ModelError, match=r"cannot open .*model\.onnx: RuntimeError"):
        open_session(tiny_fp32.path / "model.onnx", 1)

    assert capfd.readouterr().out == ""
