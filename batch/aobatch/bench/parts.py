"""Speeds of a job's parts alone: matrix products, decode steps, prefills, steps of the sampler."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.api.shapes import JsonSchema
from aobatch.arrays import Logits
from aobatch.kernels import Kernels
from aobatch.models.convert.precisions import matmul_nbits
from aobatch.models.convert.writer import GraphWriter
from aobatch.models.spec import MICROSOFT
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk, ModelRunner, session_threads
from aobatch.runners.session import Session, integer_entries, open_session
from aobatch.sampling.blocks import BlocksOf
from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler
from aobatch.shapes.matching import Masker, ShapeCompiler

BATCHES = (1, 16, 64, 128)
"""Rows of a measured decode step, over all lanes."""
PROMPTS = ((32, 16), (8, 64), (2, 256))
"""Prompts of a measured prefill, over all lanes, and tokens in each."""
CACHED_TOKENS, MANY_CACHED_TOKENS = 64, 512


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement."""

    phase: str
    """`decode`, `prefill`, or `ceiling`: a decode step if it were matrix products alone."""
    num_sequences: int
    num_tokens: int
    """New tokens of each sequence in one run."""
    seconds: float
    """Of one run of all lanes."""
    kernels: Kernels | None = None
    """What computed it; None for the ceiling."""
    cached_tokens: int = 0
    """Those of each sequence that new ones attend to."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences over the seconds of a run."""
        return self.num_sequences * self.num_tokens / self.seconds


def decode_speed(
    runners: Sequence[ModelRunner], num_sequences: int, num_cached: int = CACHED_TOKENS
) -> Speed:
    """Measure decode steps over 64 cached tokens, or another number."""
    lanes = runners[:num_sequences]
    rows = num_sequences // len(lanes)
    token_ids, lengths = np.full(rows, 17), np.full(rows, num_cached)
    for runner in lanes:
        prompt = np.random.default_rng(0).integers(0, runner.vocab_size, num_cached)
        runner.reserve(rows, num_cached + 3 * CACHED_TOKENS, [])
        runner.prefill([Chunk(0, 0, prompt, 1)])
        for slot in range(1, rows):
            runner.copy(0, slot, num_cached)
    seconds = _seconds(12, [partial(runner.decode, token_ids, lengths) for runner in lanes])
    return Speed("decode", rows * len(lanes), 1, seconds, cached_tokens=num_cached)


def prefill_speed(runners: Sequence[ModelRunner], num_prompts: int, num_tokens: int) -> Speed:
    """Measure a prefill of prompts of equal length."""
    rows = num_prompts // len(runners)
    ids = np.random.default_rng(0).integers(0, runners[0].vocab_size, num_tokens)
    chunks = [Chunk(slot, 0, ids, 1) for slot in range(rows)]
    for runner in runners:
        runner.reserve(rows, 2 * num_tokens, [])
    seconds = _seconds(4, [partial(runner.prefill, chunks) for runner in runners])
    return Speed("prefill", rows * len(runners), num_tokens, seconds)


def _seconds(repeats: int, works: Sequence[Callable[[], object]]) -> float:
    """Time a run of works side by side; they run before, to take memory and fill caches."""

    def repeat(work: Callable[[], object]) -> None:
        for _ in range(repeats):
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(repeat, works))
        started = time.perf_counter()
        list(pool.map(repeat, works))
        return (time.perf_counter() - started) / repeats


MAX_BYTES = 1 << 30
"""Weights of a graph of products; a larger decoder is represented by fewer layers."""


class Ceiling:
    """Runs the products of a graph for a batch in several lanes: no attention, nothing else."""

    def __init__(self, graph: Path, threads: int, num_lanes: int) -> None:
        model, self._times = product_model(products_of(graph))
        threads = session_threads(threads, num_lanes)
        self._session = open_session(model, threads, integer_entries())
        self._num_lanes = num_lanes

    def speed(self, num_sequences: int) -> Speed:
        """Measure as many rows as one decode step of all lanes has."""
        rows = num_sequences // self._num_lanes
        run = self._session.run_with_iobinding
        bindings = [_bind(self._session, rows) for _ in range(self._num_lanes)]
        seconds = _seconds(4, [partial(run, binding) for binding, _ in bindings])
        return Speed("ceiling", rows * self._num_lanes, 1, seconds * self._times)


def _bind(session: Session, rows: int) -> tuple[object, list[NDArray[np.generic]]]:
    """Bind memory that is allocated once; the memory comes along, since it must stay."""
    binding, memory = session.io_binding(), list[NDArray[np.generic]]()
    for bind, values in (
        (binding.bind_input, session.get_inputs()),
        (binding.bind_output, session.get_outputs()),
    ):
        for value in values:
            kind = np.uint8 if value.name.endswith("uint8") else np.float32
            array = np.full((rows, value.shape[1]), 7, kind)
            bind(value.name, "cpu", 0, kind, array.shape, array.ctypes.data)
            memory.append(array)
    return binding, memory


@dataclass(frozen=True, slots=True)
class Product:
    """One shape of matrix product: rows [N, depth] by a constant weight [depth, width]."""

    operator: str
    depth: int
    width: int


def products_of(graph: Path) -> Counter[Product]:
    """Count the products of rows by constant weights in a graph file."""
    products = Counter[Product]()
    for node in ir.load(graph).graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "MatMulIntegerToFloat") else None
        if node.op_type == "MatMulNBits":
            shape = [node.attributes[name].as_int() for name in ("K", "N")]
            products[Product(node.op_type, *shape)] += 1
        elif weight is not None and weight.is_initializer() and weight.shape is not None:
            products[Product(node.op_type, *weight.shape.numpy())] += 1
    return products


def product_model(products: Counter[Product]) -> tuple[bytes, float]:
    """Write a graph of these products, with weights of its own.

    Inputs are `rows.DEPTH.uint8` or `rows.DEPTH.float32`, [N, DEPTH]; outputs `product.INDEX`.
    The second value is how many times the graph would have to run to do all of them.
    """
    graph = GraphWriter("products")
    num_bytes = sum(
        product.depth * product.width * (4 if product.operator == "MatMul" else 1) * count
        for product, count in products.items()
    )
    share = min(1.0, MAX_BYTES / num_bytes)
    inputs: dict[str, ir.Value] = {}
    index = 0
    for product, count in products.items():
        is_integer = product.operator == "MatMulIntegerToFloat"
        name = f"rows.{product.depth}.{'uint8' if is_integer else 'float32'}"
        if name not in inputs:
            kind = ir.DataType.UINT8 if is_integer else ir.DataType.FLOAT
            inputs[name] = graph.input(name, kind, ["N", product.depth])
        for _ in range(max(1, round(count * share))):
            value = _multiply(graph, product, inputs[name], index)
            graph.output(value, f"product.{index}", ir.DataType.FLOAT, ["N", product.width])
            index += 1
    return bytes(ir.to_proto(graph.model()).SerializeToString()), 1 / share


def _multiply(graph: GraphWriter, product: Product, rows: ir.Value, index: int) -> ir.Value:
    generator = np.random.default_rng(index)
    shape, name = (product.depth, product.width), f"node.{index}"
    if product.operator == "MatMulNBits":
        return matmul_nbits(graph, rows, generator.random(shape[::-1], np.float32), name)
    if product.operator == "MatMul":
        weight = graph.weight(f"weight.{index}", generator.random(shape, np.float32))
        return graph.node("MatMul", rows, weight, name=name)
    return graph.node(
        "MatMulIntegerToFloat",
        rows,
        graph.weight(f"weight.{index}", generator.integers(-127, 128, shape, np.int8)),
        graph.shared("row.scale", np.array(0.01, np.float32)),
        graph.weight(f"scales.{index}", np.ones(product.width, np.float32)),
        graph.shared("zero.point", np.array(128, np.uint8)),
        name=name,
        domain=MICROSOFT,
    )


ROWS = 64
VOCAB_SIZES = (49_152, 151_936, 262_144)
"""Those of small models, of qwen's and of gemma's."""

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
    vocab_size: int
    seconds: float
    """Of a step over 64 rows, in one lane."""


def model_logits(runner: ModelRunner) -> Logits:
    """Let a model write 24 tokens behind each of 64, and give what it would go on with, [64, V]."""
    vocab_size, num_steps = runner.vocab_size, 24
    sampler = Sampler(ROWS, vocab_size)
    for slot in range(ROWS):
        sampler.admit(slot, SamplingParams(top_p=0.95), stream_key(slot), np.arange(0))
    runner.reserve(ROWS, num_steps + 2, [])
    starts = np.random.default_rng(0).integers(0, vocab_size, (ROWS, 2))
    logits = runner.prefill([Chunk(slot, 0, start, 1) for slot, start in enumerate(starts)])
    for step in range(num_steps):
        tokens = sampler.sample(logits).token_ids
        logits = runner.decode(tokens, np.full(ROWS, 2 + step))
    return logits.copy()


def stretched(logits: Logits, vocab_size: int) -> Logits:
    """Give rows of logits [B, V] another vocabulary; what is added is three nats less probable."""
    generator = np.random.default_rng(0)
    missing = max(0, vocab_size - logits.shape[1])
    more = logits[:, generator.integers(0, logits.shape[1], missing)] - np.float32(3)
    return np.concatenate([logits[:, :vocab_size], more], axis=1)


def benchmark_sampler(logits: Logits, blocks_of: BlocksOf) -> Iterator[SamplerSpeed]:
    """Measure a step of each case on a model's logits [64, V], and one on flat logits."""
    for vocab_size in VOCAB_SIZES:
        real = stretched(logits, vocab_size)
        steps = [(case, real, params) for case, params in CASES.items()]
        flat = np.random.default_rng(0).standard_normal((ROWS, vocab_size), np.float32)
        steps.append(("temperature, top_p, flat logits", flat, SamplingParams(top_p=0.95)))
        for case, rows, params in steps:
            sampler = Sampler(ROWS, vocab_size, blocks_of=blocks_of)
            for slot in range(ROWS):
                sampler.admit(slot, params, stream_key(slot), np.arange(20))
            yield SamplerSpeed(case, vocab_size, _seconds(3, [partial(sampler.sample, rows)]))


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "date": {"type": "string", "format": "date"}},
    "required": ["name", "date"],
}
ANSWER = '{"name": "Maria Lopez, 4th floor", "date": "2024-03-12"}'


def mask_speed(folder: ModelFolder) -> SamplerSpeed | None:
    """Measure what shapes add to a step of 64 rows: which tokens may come next, over an answer.

    None if no answer of the model can have one, as it has no end token.
    """
    manifest, tokenizer = folder.manifest, load_tokenizer(folder)
    if not manifest.eos_token_ids:
        return None
    schema = JsonSchema()("schema", SCHEMA)
    start = ShapeCompiler(tokenizer).compile(schema, manifest.eos_token_ids)
    token_ids = tokenizer.encode(ANSWER)
    masker = Masker(manifest.vocab_size)

    def answer() -> None:
        matchers = [start.deep_copy() for _ in range(ROWS)]
        for token_id in token_ids:
            masker.allowed(matchers)
            masker.take(matchers, np.full(ROWS, token_id))

    seconds = _seconds(4, [answer]) / len(token_ids)
    return SamplerSpeed("masks of a JSON schema", manifest.vocab_size, seconds)
