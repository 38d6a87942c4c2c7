"""Laws of the runner: a slot's logits depend on its own tokens alone, bit by bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from family_files import EXPERTS, FAMILIES, published

from aobatch.errors import ModelError
from aobatch.executors.local import open_runner
from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.fused import write_fused_graph
from aobatch.models.convert.precisions import block_int8, recipes
from aobatch.models.store.folder import GraphSizes, ModelFolder
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk, ModelRunner, RunnerConfig
from aobatch.runners.fused import FusedRunner
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.session import integer_entries, open_session

MODELS = [
    ("tiny_fp32", "stock", "fp32"),
    ("tiny_int8", "stock", "fp32"),
    *(("tiny_int8", "fused", cache) for cache in ("int8", "bf16", "fp32")),
]
WAYS = [(family, name) for family in FAMILIES for name in ("fp32", "int8", "nbits8", "fused")]
WAYS += [(family, name) for family in EXPERTS for name in ("fp32", "int8", "fused")]
TOKENS = np.random.default_rng(4).integers(4, 512, (64, 100))
STEPS = 3


class Runners:
    """Runners of one graph, by their numbers of threads; tests reserve slots of their own."""

    def __init__(self, opened: Callable[[int], ModelRunner]) -> None:
        self._runners = {threads: opened(threads) for threads in (1, 2)}
        self.alone = computed(self[1], [3])

    def __getitem__(self, threads: int) -> ModelRunner:
        return self._runners[threads].sibling()


@pytest.fixture(scope="module", params=MODELS)
def runners(request: pytest.FixtureRequest) -> Runners:
    """Give runners of the tiny model in each precision, over each kind of operators and cache."""
    model, kernels, cache = request.param
    folder: ModelFolder = request.getfixturevalue(model)
    return Runners(lambda threads: open_runner(folder, RunnerConfig(threads, kernels, cache)))


@pytest.fixture(scope="module", params=[*WAYS, ("llama", "blocks"), ("granitemoe", "nbits8")])
def of_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runners:
    """Give those of each family in each precision; prompts are longer than its windows."""
    family, name = request.param
    folder = tmp_path_factory.mktemp("law")
    checkpoint = read_checkpoint(published(family, folder / "tiny"))
    way = block_int8(64)  # the second way of int8, for families that can be rotated
    spec, graph, fused = checkpoint.spec, folder / "graph/model.onnx", folder / "graph/fused.onnx"
    if name != "blocks":
        way = next(iter(recipes("int8" if name == "fused" else name, spec).values()))
    write_graph(checkpoint, graph.parent, way, lambda *_: None)
    if name != "fused":
        return Runners(lambda threads: OnnxRunner(graph, threads))
    write_fused_graph(graph, fused, spec)
    sizes = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
    return Runners(lambda threads: FusedRunner(fused, threads, sizes, "int8"))


def computed(runner: ModelRunner, rows: list[int], capacity: int = 256, cut: int = 0) -> np.ndarray:
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


def test_a_prompt_is_its_tokens_one_by_one(tiny_int8: ModelFolder) -> None:
    """With fused operators prefill, decode and chunks of one token give the same bits."""
    runner = open_runner(tiny_int8, RunnerConfig(1, "fused"))
    runner.reserve(3, 128, [])
    whole = runner.prefill([Chunk(0, 0, TOKENS[0, :60], 60)]).copy()
    single = [runner.prefill([Chunk(1, i, TOKENS[0, i : i + 1], 1)]).copy() for i in range(60)]
    runner.prefill([Chunk(0, 0, TOKENS[0, :20], 1)])
    steps = [runner.decode(TOKENS[0, i : i + 1], np.array([i])).copy() for i in range(20, 60)]

    np.testing.assert_array_equal(whole, np.concatenate(single))
    np.testing.assert_array_equal(whole[20:], np.concatenate(steps))


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
