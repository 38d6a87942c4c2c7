"""Laws of the runner: a slot's logits depend on its own tokens alone, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
from family_files import FAMILIES, published

from aobatch.errors import ModelError
from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.precisions import block_int8, recipes
from aobatch.models.store.folder import ModelFolder
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.session import integer_entries, open_session

MODELS = [(model, cache) for model in ("tiny_fp32", "tiny_int8") for cache in ("fp32", "int8")]
WAYS = [(family, name) for family in FAMILIES for name in ("fp32", "int8", "nbits8")]
TOKENS = np.random.default_rng(4).integers(4, 512, (64, 100))
STEPS = 3


class Runners:
    """Runners of one graph, by their numbers of threads; tests reserve slots of their own."""

    def __init__(self, graph: Path) -> None:
        self._runners = {threads: OnnxRunner(graph, threads) for threads in (1, 2)}
        self.alone = computed(self[1], [3])

    def __getitem__(self, threads: int) -> OnnxRunner:
        return self._runners[threads].sibling()


@pytest.fixture(scope="module", params=MODELS)
def runners(request: pytest.FixtureRequest) -> Runners:
    """Give runners of the tiny model in each precision, over a cache of each type."""
    model, cache_dtype = request.param
    folder: ModelFolder = request.getfixturevalue(model)
    return Runners(folder.graph(cache_dtype))


@pytest.fixture(scope="module", params=[*WAYS, ("llama", "blocks")])
def of_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runners:
    """Give those of each family in each precision; prompts are longer than its windows."""
    family, name = request.param
    folder = tmp_path_factory.mktemp("law")
    checkpoint = read_checkpoint(published(family, folder / "tiny"))
    way = block_int8(64)  # the second way of int8, for families that can be rotated
    if name != "blocks":
        way = next(iter(recipes(name, checkpoint.spec).values()))
    write_graph(checkpoint, folder / "graph", way, lambda *_: None)
    return Runners(folder / "graph/model.onnx")


def computed(runner: OnnxRunner, rows: list[int], capacity: int = 256, cut: int = 0) -> np.ndarray:
    """Prefill ragged prompts, decode some steps; give the logits of row 3 throughout."""
    runner.reserve(len(rows), capacity, [])
    sizes = np.array([40 + (row * 17) % 55 for row in rows])
    if cut:
        runner.prefill([Chunk(i, 0, TOKENS[row, :cut], 0) for i, row in enumerate(rows)])
    chunks = [Chunk(i, cut, TOKENS[row, cut : sizes[i]], 1) for i, row in enumerate(rows)]
    place, found = rows.index(3), np.empty((1 + STEPS, runner.vocab_size), np.float32)
    found[0] = runner.prefill(chunks)[place]
    for step in range(STEPS):
        found[1 + step] = runner.decode(TOKENS[rows, 96 + step], sizes + step)[place]
    return found


@pytest.mark.parametrize(
    ("rows", "threads", "capacity"),
    [
        pytest.param([*range(1, 8)], 1, 256, id="7-rows"),
        pytest.param([*range(64)], 2, 256, id="64-rows-2-threads"),
        pytest.param([3], 2, 512, id="alone-larger-cache"),
    ],
)
def test_a_row_alone_is_the_row_in_a_batch(
    runners: Runners, rows: list[int], threads: int, capacity: int
) -> None:
    """Neighbours, threads and the size of the cache change no bit."""
    np.testing.assert_array_equal(runners.alone, computed(runners[threads], rows, capacity))


def test_neighbours_threads_and_chunks_change_no_bit(of_family: Runners) -> None:
    """Of any family alone, among 20 ragged rows, on two threads and in two chunks: the same bits.

    The trial that the engine makes before it shares prefixes succeeds.
    """
    alone = of_family.alone

    np.testing.assert_array_equal(alone, computed(of_family[1], [*range(20)]))
    np.testing.assert_array_equal(alone, computed(of_family[2], [2, 3, 7]))
    np.testing.assert_array_equal(alone, computed(of_family[1], [3], cut=33))
    np.testing.assert_array_equal(alone, computed(of_family[2], [1, 3], cut=2))
    assert of_family[1].splits_freely


def test_chunks_change_nothing(runners: Runners) -> None:
    """A prompt in chunks of two or more tokens gives the bits of the prompt at once."""
    np.testing.assert_array_equal(runners.alone, computed(runners[1], [3], cut=17))


def test_copies_and_growth_keep_what_a_slot_holds(runners: Runners) -> None:
    """A copied slot, in a cache that was made larger, goes on as the original would."""
    runner = runners[1]
    runner.reserve(1, 256, [])
    runner.prefill([Chunk(0, 0, TOKENS[0, :40], 1)])
    expected = runner.decode(TOKENS[1, :1], np.array([40])).copy()
    runner.reserve(3, 512, [40])
    runner.copy(0, 2, 40)
    runner.copy(2, 1, 40)
    found = runner.decode(TOKENS[[3, 1], 0], np.array([40, 40]))

    np.testing.assert_array_equal(expected[0], found[1])


def test_wanted_logits_are_the_last_ones(runners: Runners) -> None:
    """num_logits picks the last positions of each chunk, in the order of the chunks."""
    runner = runners[1]
    runner.reserve(2, 256, [])
    first, second = TOKENS[0, :40], TOKENS[1, :9]
    every = runner.prefill([Chunk(0, 0, first, 40), Chunk(1, 0, second, 9)]).copy()
    some = runner.prefill([Chunk(0, 0, first, 2), Chunk(1, 0, second, 1)])

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
