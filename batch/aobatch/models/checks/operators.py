"""Which operators a graph may have: those of our own decoders, and those of others' exports.

None of them loops, loads code or a compiled model, or draws random numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aobatch.models.writer import MICROSOFT


@dataclass(frozen=True, slots=True)
class GraphRules:
    """What a graph may be made of."""

    operators: frozenset[tuple[str, str]]
    """Domain and name, the standard domain being the empty one."""
    is_ours: bool
    """Whether it has to be as `models.graph` writes it: one graph, where every node depends on an
    input, so that nothing is computed, at a size of the file's choice, while a session opens."""


def _operators(names: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((domain, name) for domain, line in names.items() for name in line.split())


OURS = GraphRules(
    _operators(
        {
            "": """
                Abs Add Cast Div Gather Gelu MatMul Mul QuantizeLinear ReduceMax Reshape
                SimplifiedLayerNormalization Split
            """,
            MICROSOFT: """
                GroupQueryAttention MatMulIntegerToFloat MatMulNBits QuickGelu
                SkipSimplifiedLayerNormalization
            """,
        }
    ),
    is_ours=True,
)
"""A family or precision that needs another operator adds it here."""

EXPORTED = GraphRules(
    OURS.operators
    | _operators(
        {
            "": """
                Add And ArgMax Attention CastLike Ceil Clip Concat Constant ConstantOfShape Cos
                CumSum DequantizeLinear DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor
                GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity If IsInf IsNaN
                LayerNormalization Less LessOrEqual Log MatMulInteger Max Min Mod Neg Not Or Pow
                RMSNormalization Range Reciprocal ReduceMean ReduceMin ReduceSum Relu
                RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sin Size Slice
                Softmax Softplus Split Sqrt Squeeze Sub Swish Tanh Tile TopK Transpose Trilu
                Unsqueeze Where
            """,
            MICROSOFT: """
                BiasGelu DynamicQuantizeMatMul FastGelu FusedMatMul GatherBlockQuantized Gelu
                MatMulNBits MultiHeadAttention RotaryEmbedding SkipLayerNormalization
            """,
        }
    ),
    is_ours=False,
)
"""Decoders as optimum and the builder of onnxruntime-genai write them; `If` chooses between the
prompt's and the later steps' graph. Sizes that such a graph computes are not known ahead."""
