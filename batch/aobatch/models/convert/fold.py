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
class Table:
    """The embedding or the output head, [V, hidden], folded some rows at a time."""

    checkpoint: Checkpoint
    name: str
    turn: Floats | None
    scale: Floats | float
    """What each row is multiplied by before it is turned."""
    is_centred: bool = False
    """Whether the mean of each row is taken out."""

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
            if self.is_centred:
                rows -= rows.mean(axis=1, keepdims=True)
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
    spec = checkpoint.spec
    return Table(checkpoint, "embedding", turn, spec.embedding_scale, spec.centres)


def fold_head(checkpoint: Checkpoint, turn: Floats | None) -> Table:
    """Give the output head, with its scale, and the final gain if there is a rotation behind it."""
    scale = _logits_scale(checkpoint)
    if turn is not None:
        return Table(
            checkpoint, "head", turn, scale * checkpoint.gain("final_norm").astype(np.float64)
        )
    return Table(checkpoint, "head", turn, scale)


def head_bias(checkpoint: Checkpoint) -> Weight | None:
    """Give what is added to the logits, [V]: the head's bias, and the final norm's through it."""
    spec = checkpoint.spec
    bias = np.zeros(spec.vocab_size)
    if spec.has_norm_biases:
        before = checkpoint.load("final_norm_bias").astype(np.float64)
        blocks = Table(checkpoint, "head", None, 1.0).blocks()
        bias += np.concatenate([rows @ before for rows in blocks])
    if "head" in spec.biases:
        bias += checkpoint.load("head_bias")
    return _rounded(bias * _logits_scale(checkpoint)) if bias.any() else None


def _logits_scale(checkpoint: Checkpoint) -> float:
    # What a cap divides by is multiplied with again behind its tanh.
    return checkpoint.spec.logits_scale / (checkpoint.spec.logits_cap or 1.0)


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """One decoder layer, each of whose weights is loaded and folded when it is asked for."""

    checkpoint: Checkpoint
    index: int
    turn: Floats | None
    """The rotation of the residual stream."""

    def qkv(self) -> Linear:
        """Give queries, keys and values as one, the attention scale in it unless a norm has it."""
        spec = self.checkpoint.spec
        scale = 1.0 if spec.has_head_norms else spec.attention_scale
        parts = [self._load("q") * scale, self._load("k"), self._load("v")]
        if not spec.biases & {"q", "k", "v"}:
            return self._reads(np.concatenate(parts), "attention_norm", None)
        biases = [
            self._load(f"{name}_bias") if name in spec.biases else np.zeros(len(part))
            for name, part in zip("qkv", parts, strict=True)
        ]
        bias = np.concatenate([biases[0] * scale, *biases[1:]])
        return self._reads(np.concatenate(parts), "attention_norm", bias)

    def mlp(self, name: str) -> Linear:
        """Give the matrix of gate or up."""
        norm = "attention_norm" if self.checkpoint.spec.shares_norms else "mlp_norm"
        return self._reads(self._load(name), norm, self._bias(name))

    def out(self, name: str) -> Linear:
        """Give the matrix of o or down, which writes into the residual stream."""
        spec, weight, bias = self.checkpoint.spec, self._load(name), self._bias(name)
        weight *= spec.residual_scale
        bias = None if bias is None else bias * spec.residual_scale
        if spec.centres:  # a norm that subtracts the mean finds none in the whole stream
            weight -= weight.mean(axis=0)
            bias = None if bias is None else bias - bias.mean()
        if self.turn is not None:
            weight = self.turn.T @ weight
            bias = None if bias is None else bias @ self.turn
        return _linear(weight, bias)

    def head_norms(self) -> tuple[Weight, Weight] | None:
        """Give the gains of q, with the attention scale in it, and of k, [head_dim]."""
        if not self.checkpoint.spec.has_head_norms:
            return None
        scaled = self._load("q_norm") * self.checkpoint.spec.attention_scale
        return _rounded(scaled), _rounded(self._load("k_norm"))

    def post_norm(self, name: str) -> Weight | None:
        """Give the gain behind attention or the feed-forward block, [hidden], if there is one."""
        if not self.checkpoint.spec.has_post_norms:
            return None
        return _rounded(self._load(f"{name}_post_norm"))

    def _load(self, name: str) -> Floats:
        return self.checkpoint.load(f"layers.{self.index}.{name}").astype(np.float64)

    def _bias(self, name: str) -> Floats | None:
        return self._load(f"{name}_bias") if name in self.checkpoint.spec.biases else None

    def _reads(self, weight: Floats, gain: str, bias: Floats | None) -> Linear:
        spec, name = self.checkpoint.spec, f"layers.{self.index}.{gain}"
        if spec.has_norm_biases:
            before = weight @ self._load(f"{gain}_bias")
            bias = before if bias is None else bias + before
        if self.turn is not None:
            weight = (weight * self.checkpoint.gain(name)) @ self.turn
        return _linear(weight, bias)


def _linear(weight: Floats, bias: Floats | None) -> Linear:
    return Linear(_rounded(weight), None if bias is None else _rounded(bias))


def _rounded(weight: Floats) -> Weight:
    return weight.astype(np.float32)
