"""Laws of the ceiling's products: they are those of the graph, in every precision."""

from functools import partial
from pathlib import Path

import pytest
from family_files import published

from aobatch.bench.parts import Ceiling, Product, products_of
from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.precisions import recipes
from aobatch.models.store.locate import read_checkpoint


@pytest.mark.parametrize("precision", ["nbits8", "fp32"])
def test_products_have_the_shapes_of_the_weights(precision: str, tmp_path: Path) -> None:
    """Three layers of q, k and v together, o, gate, up and down, and one head."""
    checkpoint = read_checkpoint(published("qwen3", tmp_path / "tiny"))
    way = next(iter(recipes(precision, checkpoint.spec).values()))
    write_graph(checkpoint, tmp_path / "graph", way, lambda *_: None)
    graph = tmp_path / "graph/model.onnx"

    product = partial(Product, "MatMulNBits" if precision == "nbits8" else "MatMul")
    assert products_of(graph) == {
        product(64, 256): 3,
        product(128, 64): 3,
        product(64, 160): 6,
        product(160, 64): 3,
        product(64, 512): 1,
    }
    assert Ceiling(graph, 1, 1).speed(8).seconds > 0
