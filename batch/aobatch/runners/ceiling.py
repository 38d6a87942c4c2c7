"""The speed of a decoder's matrix products alone: no attention, no sampling, nothing else."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aobatch.models.products import product_model, products_of
from aobatch.runners import in_lanes, session_threads
from aobatch.runners.session import Session, SessionOptions, integer_entries, open_session

_RUNS = 4


class Ceiling:
    """Runs the products of a graph for a batch in several lanes."""

    def __init__(self, graph: Path, threads: int, num_lanes: int) -> None:
        model, self._times = product_model(products_of(graph))
        options = SessionOptions(session_threads(threads, num_lanes), integer_entries())
        self._session = open_session(model, options)
        self._num_lanes = num_lanes

    def tokens_per_second(self, num_sequences: int) -> float:
        """Measure as many rows as one decode step of all lanes has, in new tokens a second."""
        rows = num_sequences // self._num_lanes
        bindings = [_bind(self._session, rows) for _ in range(self._num_lanes)]

        def work(lane: int) -> None:
            for _ in range(_RUNS):
                self._session.run_with_iobinding(bindings[lane][0])

        in_lanes(self._num_lanes, work)
        started = time.perf_counter()
        in_lanes(self._num_lanes, work)
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
