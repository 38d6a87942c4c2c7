"""Where requests are computed: one module a place."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aobatch.api.request import Request

if TYPE_CHECKING:  # a finished job is told so without loading numpy
    from aobatch.engine.sequence import Result
    from aobatch.engine.streaming import Listener


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model that can be opened; two that are equal give the same results."""

    name: str
    fingerprint: str
    """Names weights, precision and runtime; it stands in every response."""
    path: Path
    precision: str = ""
    """How its weights are kept; empty if that is not known."""


class Executor(Protocol):
    """One open model."""

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> "Generator[Result, None, None]":
        """Compute every request, in any order; pull requests only as they are needed.

        Closing the generator stops the computation. The listener gets the pieces of requests that
        ask for a stream, ahead of their results.
        """
        ...

    @property
    def statistics(self) -> Mapping[str, float]:
        """Counts and seconds so far, by name; those of two executors may be added."""
        ...


class Backend(Protocol):
    """A place that finds models and opens them."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of its options that shape results."""
        ...

    @property
    def survives_requests(self) -> bool:
        """Whether this process lives on, whatever a request does to the one that computes it."""
        ...

    def resolve(self, name: str | None) -> ModelIdentity:
        """Find a model, None being the default one; ModelNotFoundError if there is none."""
        ...

    def open(self, model: ModelIdentity) -> AbstractContextManager[Executor]:
        """Make a model ready to compute; ModelError if it cannot be used."""
        ...
