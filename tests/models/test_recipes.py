"""Laws of recipes: the first way that is close enough to fp32 is taken, and noted."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from family_files import converted, published

from aobatch.arrays import Logits, TokenIds
from aobatch.bench.parts import products_of
from aobatch.errors import ModelError
from aobatch.models.convert.graph import StagedDecoder
from aobatch.models.convert.precisions import recipes
from aobatch.models.store.folder import GraphSizes
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners.scoring import TextScorer


class DoubtfulScorer(TextScorer):
    """Sees threefold logits of graphs of whole integers, and little text."""

    def reference(self, decoder: StagedDecoder, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the logits of the first text."""
        yield from super().reference(decoder, texts[:1])

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the logits of the first text, true or threefold."""
        is_wrong = any(p.operator == "MatMulIntegerToFloat" for p in products_of(graph))
        for logits in super().__call__(graph, texts[:1]):
            yield logits * (3 if is_wrong else 1)

    def fused(self, graph: Path, sizes: GraphSizes, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield those of the fused graph, which has products of integers alone."""
        return (logits * 3 for logits in super().fused(graph, sizes, texts[:1]))


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_a_way_that_is_too_far_gives_way_to_the_next(family: str, tmp_path: Path) -> None:
    """Where both ways of whole integers fail, int8 means blocks of 32."""
    checkpoint = read_checkpoint(published(family, tmp_path / "tiny"))
    folder = converted(checkpoint, tmp_path / "model", "int8", DoubtfulScorer())

    assert (folder.manifest.precision, folder.manifest.recipe) == ("int8", "blocks of 32")
    assert folder.manifest.quality is not None
    assert folder.manifest.quality.kl <= 0.02


def test_a_family_with_norms_behind_its_blocks_is_not_rotated(tmp_path: Path) -> None:
    """Its gains do not commute with a rotation; all others are rotated first."""
    ways = {
        family: [*recipes("int8", read_checkpoint(published(family, tmp_path / family)).spec)]
        for family in ("llama", "gemma3")
    }

    assert ways["llama"] == ["rotated", "Hadamard blocks", "blocks of 32"]
    assert ways["gemma3"] == ["Hadamard blocks", "blocks of 32"]


def test_unknown_precisions_are_named(tmp_path: Path) -> None:
    """The error lists those that there are."""
    spec = read_checkpoint(published("llama", tmp_path / "tiny")).spec

    with pytest.raises(ModelError, match="'int4' is unknown; known are int8, nbits8, fp32"):
        recipes("int4", spec)
