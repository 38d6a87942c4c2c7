"""Constants folded into weights, so that the graph does less when it runs.

Attention's scale goes into q (or its norm), the embedding's into the table, and, where a precision
asks for it, a rotation of the residual stream into everything that reads or writes it, behind the
gains of RMSNorm. RMSNorm without gain commutes with a rotation, so the model computes the same; but
outlier channels are spread evenly, which is what makes 8-bit activations accurate (QuaRot,
SpinQuant). Norms behind the blocks have gains that do not commute: such a family is not rotated,
and gains stay where they are, since they damp the outliers of the stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aobatch.arrays import Floats
from aobatch.models.spec import Checkpoint, Weight

_BLOCK = 2**20
"""Numbers of a table that are folded at a time."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix [out, in] after folding, and what is added behind it, [out]."""

    weight: Weight
    bias: Weight | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer after folding."""

    qkv: Linear
    o: Linear
    gate: Linear
    up: Linear
    down: Linear
    head_norms: tuple[Weight, Weight] | None
    """Gains of q and k, [head_dim]."""
    post_norms: tuple[Weight, Weight] | None
    """Gains behind attention and the feed-forward block, [hidden]."""


@dataclass(frozen=True, slots=True)
class Table:
    """The embedding or the output head, [V, hidden], folded some rows at a time."""

    checkpoint: Checkpoint
    name: str
    turn: Floats | None
    scale: Floats | float
    """What each row is multiplied by before it is turned."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.checkpoint.spec.vocab_size, self.checkpoint.spec.hidden_size

    def blocks(self) -> Iterator[Weight]:
        """Yield the rows as float32, block after block."""
        num_rows, width = self.shape
        step = max(1, _BLOCK // width)
        for start in range(0, num_rows, step):
            rows = self.checkpoint.load(self.name, start, start + step).astype(np.float64)
            rows *= self.scale
            yield _rounded(rows if self.turn is None else rows @ self.turn)


def rotation(size: int, seed: int = 0) -> Floats:
    """Give a random orthogonal matrix [size, size]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def hadamard(size: int) -> Floats:
    """Give the orthonormal Hadamard matrix [size, size] (Sylvester); size is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size))


def fold_embedding(checkpoint: Checkpoint, turn: Floats | None) -> Table:
    """Give the token embedding in the rotated residual stream."""
    return Table(checkpoint, "embedding", turn, checkpoint.spec.embedding_scale)


def fold_head(checkpoint: Checkpoint, turn: Floats | None) -> Table:
    """Give the output head, with the final gain folded in if there is a rotation behind it."""
    gain = 1.0 if turn is None else checkpoint.load("final_norm").astype(np.float64)
    return Table(checkpoint, "head", turn, gain)


def fold_layer(checkpoint: Checkpoint, index: int, turn: Floats | None) -> LayerWeights:
    """Load one layer and fold the attention scale, and the rotation `turn`, into it."""
    spec = checkpoint.spec
    layer = _Layer(checkpoint, index, turn)
    head_norms = post_norms = None
    if spec.has_head_norms:
        scaled = layer.load("q_norm") * spec.attention_scale
        head_norms = _rounded(scaled), _rounded(layer.load("k_norm"))
    if spec.has_post_norms:
        post_norms = (
            _rounded(layer.load("attention_post_norm")),
            _rounded(layer.load("mlp_post_norm")),
        )
    return LayerWeights(
        qkv=layer.qkv(),
        o=layer.writes("o"),
        gate=layer.reads(layer.load("gate"), "mlp_norm", layer.bias("gate")),
        up=layer.reads(layer.load("up"), "mlp_norm", layer.bias("up")),
        down=layer.writes("down"),
        head_norms=head_norms,
        post_norms=post_norms,
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """Where the weights of one layer come from, and how they read and write the stream."""

    checkpoint: Checkpoint
    index: int
    turn: Floats | None

    def load(self, name: str) -> Floats:
        return self.checkpoint.load(f"layers.{self.index}.{name}").astype(np.float64)

    def bias(self, name: str) -> Floats | None:
        return self.load(f"{name}_bias") if name in self.checkpoint.spec.biases else None

    def qkv(self) -> Linear:
        spec = self.checkpoint.spec
        scale = 1.0 if spec.has_head_norms else spec.attention_scale
        parts = [self.load("q") * scale, self.load("k"), self.load("v")]
        bias = None
        if spec.biases & {"q", "k", "v"}:
            found = [self.bias(name) for name in "qkv"]
            biases = [
                np.zeros(len(part)) if own is None else own
                for own, part in zip(found, parts, strict=True)
            ]
            bias = np.concatenate([biases[0] * scale, *biases[1:]])
        return self.reads(np.concatenate(parts), "attention_norm", bias)

    def reads(self, weight: Floats, gain: str, bias: Floats | None) -> Linear:
        if self.turn is not None:
            weight = (weight * self.load(gain)) @ self.turn
        return Linear(_rounded(weight), None if bias is None else _rounded(bias))

    def writes(self, name: str) -> Linear:
        weight, bias = self.load(name), self.bias(name)
        if self.turn is not None:
            weight = self.turn.T @ weight
            bias = None if bias is None else bias @ self.turn
        return Linear(_rounded(weight), None if bias is None else _rounded(bias))


def _rounded(weight: Floats) -> Weight:
    return weight.astype(np.float32)
