"""The speed of a decoder's matrix products alone: no attention, no sampling, nothing else."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.arrays import Logits
from aobatch.models.convert.precisions import matmul_nbits
from aobatch.models.convert.writer import MICROSOFT, GraphWriter
from aobatch.runners import Chunk, ModelRunner, session_threads
from aobatch.runners.session import Session, integer_entries, open_session
from aobatch.sampling.draw import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

MAX_BYTES = 1 << 30
"""Weights of a model of products; a larger decoder is represented by fewer layers."""


@dataclass(frozen=True, slots=True)
class Product:
    """One shape of matrix product: rows [N, depth] by a weight [depth, width]."""

    depth: int
    width: int
    is_integer: bool
    is_blocked: bool = False
    """Whether float rows meet 8-bit weights with a scale a block."""


def products_of(graph: Path) -> Counter[Product]:
    """Count the products of rows by constant weights in a graph file."""
    model = ir.load(graph)
    products: Counter[Product] = Counter()
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            depth, width = (node.attributes[name].as_int() for name in ("K", "N"))
            products[Product(depth, width, is_integer=False, is_blocked=True)] += 1
        weight = node.inputs[1] if node.op_type in ("MatMul", "MatMulIntegerToFloat") else None
        if weight is not None and weight.is_initializer() and weight.shape is not None:
            depth, width = weight.shape.numpy()
            products[Product(depth, width, node.op_type != "MatMul")] += 1
    return products


def product_model(products: Counter[Product]) -> tuple[bytes, float]:
    """Write a graph of these products, with weights of its own.

    Inputs are `rows.DEPTH.uint8` or `rows.DEPTH.float32`, [N, DEPTH]; outputs `product.INDEX`.
    The second value is how many times the graph would have to run to do all of them.
    """
    graph = GraphWriter("products")
    num_bytes = sum(_size(product) * count for product, count in products.items())
    share = min(1.0, MAX_BYTES / num_bytes)
    inputs: dict[str, ir.Value] = {}
    index = 0
    for product, count in products.items():
        for _ in range(max(1, round(count * share))):
            _add(graph, product, inputs, index)
            index += 1
    return bytes(ir.to_proto(graph.model()).SerializeToString()), 1 / share


def _size(product: Product) -> int:
    return product.depth * product.width * (1 if product.is_integer or product.is_blocked else 4)


def _add(graph: GraphWriter, product: Product, inputs: dict[str, ir.Value], index: int) -> None:
    kind = ir.DataType.UINT8 if product.is_integer else ir.DataType.FLOAT
    name = f"rows.{product.depth}.{'uint8' if product.is_integer else 'float32'}"
    if name not in inputs:
        inputs[name] = graph.input(name, kind, ["N", product.depth])
    generator = np.random.default_rng(index)
    shape = (product.depth, product.width)
    if product.is_integer:
        value = graph.node(
            "MatMulIntegerToFloat",
            inputs[name],
            graph.weight(f"weight.{index}", generator.integers(-127, 128, shape, np.int8)),
            graph.shared("row.scale", np.array(0.01, np.float32)),
            graph.weight(f"scales.{index}", np.ones(product.width, np.float32)),
            graph.shared("zero.point", np.array(128, np.uint8)),
            name=f"node.{index}",
            domain=MICROSOFT,
        )
    elif product.is_blocked:
        rows = generator.random(shape[::-1], np.float32)
        value = matmul_nbits(graph, inputs[name], rows, f"node.{index}")
    else:
        weight = graph.weight(f"weight.{index}", generator.random(shape, np.float32))
        value = graph.node("MatMul", inputs[name], weight, name=f"node.{index}")
    graph.output(value, f"product.{index}", ir.DataType.FLOAT, ["N", product.width])


ROWS, VOCAB_SIZE = 64, 49_152
_REPEATS = 15

CASES: Mapping[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(),
    "temperature, top_p": SamplingParams(top_p=0.95),
    "temperature, top_k": SamplingParams(temperature=0.8, top_k=40),
    "temperature, top_p, penalties, 5 logprobs": SamplingParams(
        temperature=0.8,
        top_p=0.95,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        num_logprobs=5,
    ),
}
"""What every row of a measured step asks for."""


@dataclass(frozen=True, slots=True)
class SamplerSpeed:
    """One measurement."""

    case: str
    seconds: float
    """Median of a step over 64 rows of 49,152 logits."""


def benchmark_sampler() -> Iterator[SamplerSpeed]:
    """Measure a step of each case."""
    logits = _peaked_logits(np.random.default_rng(0))
    for case, params in CASES.items():
        sampler = Sampler(ROWS, VOCAB_SIZE)
        for slot in range(ROWS):
            sampler.admit(slot, params, stream_key(slot), np.arange(20))
        seconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            sampler.sample(logits)
            seconds.append(time.perf_counter() - started)
        yield SamplerSpeed(case, float(np.median(seconds)))


def _peaked_logits(generator: np.random.Generator) -> Logits:
    """Make logits [64, 49152]: a broad background and a few likely tokens in each row."""
    logits = 2 * generator.standard_normal((ROWS, VOCAB_SIZE), np.float32)
    peaks = generator.integers(0, VOCAB_SIZE, (ROWS, 30))
    heights = 16 - 2.5 * np.log1p(np.arange(30, dtype=np.float32))
    np.put_along_axis(logits, peaks, heights[None].repeat(ROWS, axis=0), axis=1)
    return logits


BATCHES = (1, 16, 64, 128)
"""Rows of a measured decode step, over all lanes."""
PROMPTS = ((32, 16), (8, 64), (2, 256))
"""Prompts of a measured prefill, over all lanes, and tokens in each."""
CACHED_TOKENS = 64
_STEPS = 12
_PREFILLS = 4


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement."""

    phase: str
    """`decode` or `prefill`."""
    num_sequences: int
    num_tokens: int
    """New tokens of each sequence in one run."""
    seconds: float
    """Of one run of all lanes."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences over the seconds of a run."""
        return self.num_sequences * self.num_tokens / self.seconds


def decode_speed(runners: Sequence[ModelRunner], num_sequences: int) -> Speed:
    """Measure decode steps over 64 cached tokens."""
    lanes = runners[: min(len(runners), num_sequences)]
    rows = num_sequences // len(lanes)
    for runner in lanes:
        _fill(runner, rows)

    def work(lane: int) -> None:
        token_ids, lengths = np.full(rows, 17), np.full(rows, CACHED_TOKENS)
        for _ in range(_STEPS):
            lanes[lane].decode(token_ids, lengths)
            lengths += 1

    seconds = _timed(len(lanes), work) / _STEPS
    return Speed("decode", rows * len(lanes), 1, seconds)


def prefill_speed(runners: Sequence[ModelRunner], num_prompts: int, num_tokens: int) -> Speed:
    """Measure a prefill of prompts of equal length."""
    rows = num_prompts // len(runners)
    for runner in runners:
        runner.reserve(rows, 2 * num_tokens, [])

    def work(lane: int) -> None:
        ids = np.random.default_rng(lane).integers(0, runners[lane].vocab_size, num_tokens)
        for _ in range(_PREFILLS):
            runners[lane].prefill([Chunk(slot, 0, ids, 1) for slot in range(rows)])

    seconds = _timed(len(runners), work) / _PREFILLS
    return Speed("prefill", rows * len(runners), num_tokens, seconds)


def _fill(runner: ModelRunner, rows: int) -> None:
    """Put a prompt of 64 tokens into every slot."""
    runner.reserve(rows, 4 * CACHED_TOKENS, [])
    ids = np.random.default_rng(0).integers(0, runner.vocab_size, CACHED_TOKENS)
    runner.prefill([Chunk(0, 0, ids, 1)])
    for slot in range(1, rows):
        runner.copy(0, slot, CACHED_TOKENS)


def _timed(num_lanes: int, work: Callable[[int], None]) -> float:
    """Give the seconds of a second go; the first one takes memory and fills caches."""
    _in_lanes(num_lanes, work)
    started = time.perf_counter()
    _in_lanes(num_lanes, work)
    return time.perf_counter() - started


def _in_lanes(count: int, work: Callable[[int], None]) -> None:
    """Call work(0) to work(count - 1) side by side; raise what one of them raises."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


_RUNS = 4


class Ceiling:
    """Runs the products of a graph for a batch in several lanes."""

    def __init__(self, graph: Path, threads: int, num_lanes: int) -> None:
        model, self._times = product_model(products_of(graph))
        threads = session_threads(threads, num_lanes)
        self._session = open_session(model, threads, integer_entries())
        self._num_lanes = num_lanes

    def tokens_per_second(self, num_sequences: int) -> float:
        """Measure as many rows as one decode step of all lanes has, in new tokens a second."""
        rows = num_sequences // self._num_lanes
        bindings = [_bind(self._session, rows) for _ in range(self._num_lanes)]

        def work(lane: int) -> None:
            for _ in range(_RUNS):
                self._session.run_with_iobinding(bindings[lane][0])

        _in_lanes(self._num_lanes, work)
        started = time.perf_counter()
        _in_lanes(self._num_lanes, work)
        seconds = (time.perf_counter() - started) * self._times
        return _RUNS * rows * self._num_lanes / seconds


def _bind(session: Session, rows: int) -> tuple[object, list[NDArray[np.generic]]]:
    """Give a binding of memory that was allocated once, and the memory, which must stay."""
    binding, memory = session.io_binding(), []
    for value in session.get_inputs():
        kind = np.uint8 if value.name.endswith("uint8") else np.float32
        array: NDArray[np.generic] = np.full((rows, value.shape[1]), 7, kind)
        binding.bind_input(value.name, "cpu", 0, kind, array.shape, array.ctypes.data)
        memory.append(array)
    for value in session.get_outputs():
        array = np.empty((rows, value.shape[1]), np.float32)
        binding.bind_output(value.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        memory.append(array)
    return binding, memory
