"""Constants folded into weights, so that the graph does less when it runs.

Attention's scale goes into q (or its norm), the embedding's into the table, and, where a precision
asks for it, a rotation of the residual stream into everything that reads or writes it, behind the
gains of RMSNorm. RMSNorm without gain commutes with a rotation, so the model computes the same; but
outlier channels are spread evenly, which is what makes 8-bit activations accurate (QuaRot,
SpinQuant). A norm that subtracts the mean does the same as RMSNorm where all that writes into the
stream is centred, and its bias goes into what reads it. Norms behind the blocks have gains that do
not commute: such a family is not rotated, and gains stay where they are, since they damp the
outliers of the stream.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import TypeVar

import numpy as np

from aobatch.arrays import Floats
from aobatch.models.spec import Checkpoint, Weight

T = TypeVar("T")
_BLOCK, _LARGE_BLOCK = 2**17, 2**20
"""Numbers of a matrix that are folded at a time: they stay in a core's cache, or keep all busy."""
_LARGE, _FACTOR = 1024, 64


@dataclass(frozen=True, slots=True)
class Rotation:
    """An orthogonal matrix: signs, and the Kronecker product of factors behind them."""

    signs: Floats
    factors: tuple[Floats, ...]

    @property
    def is_dense(self) -> bool:
        """Whether it is one matrix, whose products keep all cores busy by themselves."""
        return len(self.factors) == 1

    def __call__(self, rows: Floats) -> Floats:
        """Turn rows [N, size]."""
        if self.is_dense:
            return rows @ self.factors[0]
        turned, inner = rows * self.signs, 1
        for factor in reversed(self.factors):
            turned = _times(turned, factor, inner)
            inner *= len(factor)
        return turned.reshape(rows.shape)


def _times(rows: Floats, factor: Floats, inner: int) -> Floats:
    """Multiply by a factor of a Kronecker product that has factors of size `inner` behind it."""
    if inner > 1:
        return np.asarray(factor.T @ rows.reshape(-1, len(factor), inner))
    return times_blocks(rows, factor)


def times_blocks(rows: Floats, matrix: Floats) -> Floats:
    """Multiply each block of the columns of rows [N, blocks * size] by a matrix [size, size]."""
    # Products as small as these are left to the thread that asks for them.
    size, count = len(matrix), rows.size // len(matrix)
    each = gcd(count, size)
    return np.asarray(rows.reshape(count // each, each, size) @ matrix).reshape(rows.shape)


def rotation(size: int, seed: int = 0) -> Rotation:
    """Give a random rotation of rows of that size.

    Of a large one the products would be most of a conversion's work, so it is a random diagonal of
    signs and Hadamard matrices (QuIP#, QuaRot), with a random factor for what is no power of two.
    """
    chance = np.random.default_rng(seed)
    if size < _LARGE:
        return Rotation(np.ones(size), (_orthogonal(size, chance),))
    power = size & -size
    factors = [] if power == size else [_orthogonal(size // power, chance)]
    while power > 1:
        factors.append(hadamard(min(power, _FACTOR)))
        power //= len(factors[-1])
    return Rotation(chance.choice([-1.0, 1.0], size), tuple(factors))


def _orthogonal(size: int, chance: np.random.Generator) -> Floats:
    return np.linalg.qr(chance.standard_normal((size, size)))[0]


def hadamard(size: int) -> Floats:
    """Give the orthonormal Hadamard matrix [size, size] (Sylvester); size is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size))


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix [out, in] that is folded some rows at a time, when they are asked for."""

    load: Callable[[int, int], Weight]
    """Gives rows from one number to another."""
    shape: tuple[int, int]
    turn: Rotation | None = None
    scale: Floats | float = 1.0
    """What each row is multiplied by before it is turned."""
    row_scales: Floats | None = None
    """A number for each row, [out], which it is multiplied by, too."""
    is_centred: bool = False
    """Whether the mean of each row is taken out."""

    def rows(self, start: int, stop: int) -> Weight:
        """Fold rows start to stop, in float64; they come as float32."""
        loaded = self.load(start, stop)
        is_plain = isinstance(self.scale, float) and self.scale == 1 and self.row_scales is None
        if is_plain and self.turn is None and not self.is_centred:
            return loaded
        rows = loaded.astype(np.float64)
        if self.row_scales is not None:
            rows *= self.row_scales[start:stop, None]
        rows *= self.scale
        if self.is_centred:
            rows -= rows.mean(axis=1, keepdims=True)
        return _rounded(rows if self.turn is None else self.turn(rows))


def map_rows(weight: Weight | Matrix, work: Callable[[slice, Weight], T]) -> Iterator[T]:
    """Yield what `work` makes of some rows at a time, in their order, with all cores at work.

    It is given where the rows are, and the rows; few of its results wait at a time.
    """
    is_dense = isinstance(weight, Matrix) and weight.turn is not None and weight.turn.is_dense
    num_threads = 1 if is_dense else os.cpu_count() or 1
    num_rows, columns = weight.shape
    step = max(1, (_LARGE_BLOCK if is_dense else _BLOCK) // columns)
    places = (slice(i, min(i + step, num_rows)) for i in range(0, num_rows, step))

    def block(place: slice) -> T:
        if isinstance(weight, Matrix):
            return work(place, weight.rows(place.start, place.stop))
        return work(place, weight[place])

    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            for place in places:
                waiting.append(threads.submit(block, place))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


def each_block(weight: Weight | Matrix, work: Callable[[slice, Weight], None]) -> None:
    """Do something with some rows at a time, in any order, with all cores at work."""
    deque(map_rows(weight, work), maxlen=0)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix [out, in] after folding, and what is added behind it, [out]."""

    weight: Weight | Matrix
    bias: Weight | None


def fold_embedding(checkpoint: Checkpoint, turn: Rotation | None) -> Matrix:
    """Give the token embedding [V, hidden] in the rotated residual stream."""
    spec = checkpoint.spec
    return _table(checkpoint, "embedding", turn, spec.embedding_scale, is_centred=spec.centres)


def fold_head(checkpoint: Checkpoint, turn: Rotation | None) -> Matrix:
    """Give the output head [V, hidden], with its scale, and a gain if there is a rotation."""
    scale = _logits_scale(checkpoint)
    if turn is None:
        return _table(checkpoint, "head", None, scale)
    gain = checkpoint.gain("final_norm").astype(np.float64)
    return _table(checkpoint, "head", turn, scale * gain)


def _table(
    checkpoint: Checkpoint,
    name: str,
    turn: Rotation | None,
    scale: Floats | float,
    *,
    is_centred: bool = False,
) -> Matrix:
    shape = checkpoint.spec.vocab_size, checkpoint.spec.hidden_size
    load = partial(checkpoint.load, name)
    return Matrix(load, shape, turn, scale, is_centred=is_centred)


def head_bias(checkpoint: Checkpoint) -> Weight | None:
    """Give what is added to the logits, [V]: the head's bias, and the final norm's through it."""
    spec = checkpoint.spec
    bias = np.zeros(spec.vocab_size)
    if spec.has_norm_biases:
        before = checkpoint.load("final_norm_bias").astype(np.float64)
        bias += _product(_table(checkpoint, "head", None, 1.0), before)
    if "head" in spec.biases:
        bias += checkpoint.load("head_bias")
    return _rounded(bias * _logits_scale(checkpoint)) if bias.any() else None


def _product(weight: Matrix, column: Floats) -> Floats:
    return np.concatenate([*map_rows(weight, lambda _, rows: rows.astype(np.float64) @ column)])


def _logits_scale(checkpoint: Checkpoint) -> float:
    # What a cap divides by is multiplied with again behind its tanh.
    return checkpoint.spec.logits_scale / (checkpoint.spec.logits_cap or 1.0)


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """One decoder layer, each of whose weights is loaded and folded when it is asked for."""

    checkpoint: Checkpoint
    index: int
    turn: Rotation | None
    """The rotation of the residual stream."""

    def qkv(self) -> Linear:
        """Give queries, keys and values as one, the attention scale in it unless a norm has it."""
        spec = self.checkpoint.spec
        scale = 1.0 if spec.has_head_norms else spec.attention_scale
        parts = [self._load(name) for name in "qkv"]
        weight, scales = np.concatenate(parts), np.ones(sum(map(len, parts)))
        scales[: len(parts[0])] = scale
        matrix = Matrix(lambda i, j: weight[i:j], weight.shape, row_scales=scales)
        if not spec.biases & {"q", "k", "v"}:
            return self._reads(matrix, "attention_norm", None)
        biases = [
            self._load(f"{name}_bias") if name in spec.biases else np.zeros(len(part))
            for name, part in zip("qkv", parts, strict=True)
        ]
        return self._reads(matrix, "attention_norm", np.concatenate(biases) * scales)

    def mlp(self, name: str, expert: int | None = None) -> Linear:
        """Give the matrix of the router, gate or up, or of an expert's."""
        spec = self.checkpoint.spec
        norm = "attention_norm" if spec.shares_norms else "mlp_norm"
        if name == "router" or expert is not None:
            weight = self._load(name, expert)
            matrix = Matrix(lambda i, j: weight[i:j], weight.shape)
        else:
            shape = spec.intermediate_size, spec.hidden_size
            matrix = Matrix(partial(self.checkpoint.load, self._name(name)), shape)
        return self._reads(matrix, norm, self._bias(name, expert))

    def out(self, name: str, expert: int | None = None) -> Linear:
        """Give the matrix of o or down, or of an expert's, which writes into the stream."""
        spec, bias = self.checkpoint.spec, self._bias(name, expert)
        weight = self._load(name, expert)
        bias = None if bias is None else bias * spec.residual_scale
        if bias is not None and spec.centres:
            bias = bias - bias.mean()
        if bias is not None and self.turn is not None:
            bias = self.turn(bias[None])[0]
        if self.turn is None and not spec.centres:
            matrix = Matrix(lambda i, j: weight[i:j], weight.shape, scale=spec.residual_scale)
            return _linear(matrix, bias)
        # A norm that subtracts the mean finds none in the whole stream.
        columns = Matrix(
            lambda i, j: np.ascontiguousarray(weight[:, i:j].T),
            weight.shape[::-1],
            self.turn,
            spec.residual_scale,
            is_centred=spec.centres,
        )
        folded = np.empty(weight.shape, np.float32)

        def store(place: slice, turned: Weight) -> None:
            folded[:, place] = turned.T

        each_block(columns, store)
        return _linear(folded, bias)

    def head_norms(self) -> tuple[Weight, Weight] | None:
        """Give the gains of q, with the attention scale in it, and of k, [head_dim]."""
        if not self.checkpoint.spec.has_head_norms:
            return None
        scaled = self._load("q_norm") * np.float64(self.checkpoint.spec.attention_scale)
        return _rounded(scaled), self._load("k_norm")

    def post_norm(self, name: str) -> Weight | None:
        """Give the gain behind attention or the feed-forward block, [hidden], if there is one."""
        if not self.checkpoint.spec.has_post_norms:
            return None
        return self._load(f"{name}_post_norm")

    def sinks(self) -> Weight | None:
        """Give the score of each head's token without a value, [heads], if there is one."""
        return self._load("sinks") if self.checkpoint.spec.has_sinks else None

    def _name(self, name: str) -> str:
        return f"layers.{self.index}.{name}"

    def _load(self, name: str, expert: int | None = None) -> Weight:
        if expert is None:
            return self.checkpoint.load(self._name(name))
        own: Weight = self.checkpoint.load(self._name(name), expert, expert + 1)[0]
        return own

    def _bias(self, name: str, expert: int | None = None) -> Floats | None:
        if name not in self.checkpoint.spec.biases:
            return None
        return self._load(f"{name}_bias", expert).astype(np.float64)

    def _reads(self, weight: Matrix, gain: str, bias: Floats | None) -> Linear:
        if self.checkpoint.spec.has_norm_biases:
            before = _product(weight, self._load(f"{gain}_bias").astype(np.float64))
            bias = before if bias is None else bias + before
        if self.turn is not None:
            scale = self.checkpoint.gain(self._name(gain)).astype(np.float64)
            weight = replace(weight, turn=self.turn, scale=scale)
        return _linear(weight, bias)


def _linear(weight: Weight | Matrix, bias: Floats | None) -> Linear:
    return Linear(weight, None if bias is None else _rounded(bias))


def _rounded(weight: Floats) -> Weight:
    return weight.astype(np.float32)
