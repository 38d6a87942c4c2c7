"""Results as they come from an executor, into the ledger and the event files."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing

from aobatch.api.errors import NUMERICAL_ERROR
from aobatch.api.request import Request
from aobatch.engine.sequence import Result
from aobatch.errors import AobatchError, ModelError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.context import Job
from aobatch.job.records import record_of
from aobatch.job.sampler import recorded_timeline
from aobatch.job.stream import EventFiles

MAX_LEADING_FAILURES = 8
"""When so many first results of a model hold no usable number, it is the model that is broken."""


class EngineFailureError(Exception):
    """The executor failed at one of the requests under way; which one is not known."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def record_results(
    job: Job, model: ModelIdentity, executor: Executor, requests: Iterable[Request]
) -> int:
    """Compute requests and keep their results; give how many there were.

    EngineFailureError if the executor fails, ModelError if the model computes no numbers.
    """
    num_results, write_seconds, proof = 0, 0.0, _Proof(job, model)
    try:
        with (
            recorded_timeline(job.ledger, lambda: executor.statistics) as timeline,
            closing(EventFiles(job, model)) as events,
            closing(executor.run(requests, events.add)) as results,
        ):
            for result in _guarded(results):
                started = time.perf_counter()
                events.end(result)
                job.ledger.add(record_of(job, model, result))
                proof.take_in(result)
                job.in_flight.end(result.request.key)
                job.progress.advance(1, result.usage.completion_tokens)
                timeline.count_line()
                num_results += 1
                write_seconds += time.perf_counter() - started
    finally:
        job.ledger.add_statistics({"write_seconds": write_seconds})
        job.ledger.add_statistics(executor.statistics)
    return num_results


def _guarded(results: Iterable[Result]) -> Iterator[Result]:
    """Tell failures of the executor, which are not on purpose, from all others."""
    try:
        yield from results
    except AobatchError:
        raise
    except Exception as error:  # whatever a request may set off in the engine
        raise EngineFailureError(error) from error


class _Proof:
    """Whether a model computes usable numbers at all, as its first results show."""

    def __init__(self, job: Job, model: ModelIdentity) -> None:
        self._job = job
        self._model = model
        self._leading: list[str] = []
        self._is_given = False

    def take_in(self, result: Result) -> None:
        """Look at a recorded result; ModelError, and no record, if it is one too many without."""
        if self._is_given or result.error is None or result.error.code != NUMERICAL_ERROR:
            self._is_given = True
            return
        self._leading.append(result.request.key)
        # A model that a line names is no reason to end the job.
        is_of_lines = self._job.models.is_of_lines(self._model)
        if len(self._leading) == MAX_LEADING_FAILURES and not is_of_lines:
            self._job.ledger.forget(self._leading)
            message = (
                f"model {self._model.name} computes NaN or infinity: none of its first "
                f"{MAX_LEADING_FAILURES} results has usable numbers; convert or import it again"
            )
            raise ModelError(message)
