"""Fixtures of the models' tests: a measurement that finds one graph far from its reference."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from aobatch.arrays import Logits, TokenIds
from aobatch.models.convert.graph import StagedDecoder
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.store.folder import GraphSizes, ModelFolder
from aobatch.runners.scoring import TextScorer

Distorted = Callable[[str], ModelFolder]


class DistortingScorer(TextScorer):
    """Sees the logits of the converted model's graph of one name threefold, and little text."""

    def __init__(self, graph_name: str) -> None:
        self._graph_name = graph_name

    def reference(self, decoder: StagedDecoder, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the logits of the first text."""
        yield from super().reference(decoder, texts[:1])

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the logits of the first text, true or threefold."""
        is_distorted = graph.name == self._graph_name
        for logits in super().__call__(graph, texts[:1]):
            yield logits * (3 if is_distorted else 1)

    def fused(self, graph: Path, sizes: GraphSizes, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield those of the fused graph likewise."""
        is_distorted = graph.name == self._graph_name
        for logits in super().fused(graph, sizes, texts[:1]):
            yield logits * (3 if is_distorted else 1)


@pytest.fixture(scope="module", autouse=True)
def _little_text(little_text: None) -> None:
    """Measure by little text: the tiny models of `tests/conftest.py` were measured by all of it."""


@pytest.fixture
def _no_hang() -> Iterator[None]:
    """Fail a test that takes more than two seconds of processor time."""

    def fail(_number: int, _frame: object) -> None:
        message = "it hangs"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, 2)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder for models."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a tiny llama as its author would publish it."""
    from family_files import published  # found since the path above

    return published("llama", tmp_path / "tiny")


@pytest.fixture
def convert_distorted(tiny_gguf: Path, tmp_path: Path) -> Distorted:
    """Give a conversion of the tiny model to int8 that finds the graph of a name far away."""
    from family_files import converted  # beside this file, where it is found only now

    return lambda graph_name: converted(
        read_gguf(tiny_gguf), tmp_path / "far", "int8", DistortingScorer(graph_name)
    )


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note what ONNX Runtime is asked to open, and let it open nothing."""
    opened: list[object] = []

    def refuse(source: object, *_: object, **__: object) -> None:
        opened.append(source)
        raise RuntimeError

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    return opened
