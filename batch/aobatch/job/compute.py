"""Every request that has no result yet through the executor of its model, into the ledger."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import msgspec

from aobatch.api.errors import NUMERICAL_ERROR, error_object, shorten
from aobatch.api.request import FailedLine, Request
from aobatch.engine.sequence import Result
from aobatch.errors import AobatchError, JobError, ModelError, RequestError
from aobatch.executors import Executor, ModelIdentity, Statistics
from aobatch.executors.isolated import IsolatedExecutor
from aobatch.job.context import Job, record_of
from aobatch.job.events import EventFiles
from aobatch.job.ledger import Ledger, Line
from aobatch.job.models import MAX_NAME_LENGTH
from aobatch.job.report.usage import MAX_POINTS, Point, interval_after, thinned

DEATHS_BEFORE_ISOLATION = 2
"""So many processes may die while they compute a request before it gets one of its own."""
MAX_LEADING_FAILURES = 8
"""When so many first results of a model hold no usable number, it is the model that is broken."""


class EngineFailureError(Exception):
    """The executor failed at one of the requests under way; which one is not known."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def compute(job: Job) -> None:
    """Fill the ledger; one model is open at a time, for one reading of the inputs each.

    Requests that may have killed a process, or at which the engine failed, come last and in a
    process of their own, so that none of them stops the others. A model that lines name and that
    cannot be opened fails these lines alone, unless there is no other.
    """
    suspects = job.ledger.suspects(DEATHS_BEFORE_ISOLATION)
    for is_isolated in (False, True):
        while suspects or not is_isolated:
            reading = _Reading(job, suspects, is_isolated)
            try:
                _compute_model(job, reading)
            except EngineFailureError as failure:
                suspects |= _requests_at_fault(job, failure, is_isolated=is_isolated)
            else:
                if reading.is_last:
                    break
    job.models.check_any_usable()


@dataclass(slots=True)
class _Reading:
    """One reading of the inputs: the open requests of the first model that has any."""

    job: Job
    suspects: set[str]
    is_isolated: bool
    """Whether the suspects are to be computed, or the others."""
    model: ModelIdentity | None = None
    num_requests: int = 0
    is_last: bool = True

    def requests(self) -> Iterator[Request]:
        """Yield the requests to compute now, as late as they are asked for."""
        job = self.job
        # Results that come meanwhile are of requests that were read before.
        has_results = len(job.ledger) > 0
        for line in job.source.lines():
            model = job.models.find(line.body.model) if isinstance(line, Request) else None
            if line.line > job.ledger.last_line:
                _keep_line(job, line, model)
            if not isinstance(line, Request) or not isinstance(model, ModelIdentity):
                continue
            if has_results and line.key in job.ledger:
                continue
            if (line.key in self.suspects) != self.is_isolated:
                continue
            self.model = self.model or model
            if model != self.model:
                self.is_last = False
                continue
            self.num_requests += 1
            if not job.backend.survives_requests:
                job.in_flight.begin(line.key)
            yield line


def keep_lines(job: Job) -> None:
    """Keep what publishing needs of all lines, and compute nothing."""
    for line in job.source.lines():
        _keep_line(
            job, line, job.models.find(line.body.model) if isinstance(line, Request) else None
        )


def _keep_line(
    job: Job, line: Request | FailedLine, model: ModelIdentity | RequestError | None
) -> None:
    """Keep what publishing needs of a line that no reading came to before."""
    kept = Line(line.line, line.custom_id, line.is_envelope)
    if isinstance(line, FailedLine):
        kept = kept._replace(model=line.model, user=line.user)
        error = msgspec.json.encode(line.error)
        job.ledger.add_line(kept._replace(status_code=line.status_code, error=error))
        job.progress.advance(1, 0)
        job.progress.fail()
        return
    name = shorten(job.models.asked_name(line.body.model) or "", MAX_NAME_LENGTH)
    kept = kept._replace(key=bytes.fromhex(line.key), model=name, user=line.body.user)
    if isinstance(model, RequestError):
        error = msgspec.json.encode(error_object(model))
        kept = kept._replace(status_code=model.status_code, error=error)
    job.ledger.add_line(kept)


def _compute_model(job: Job, reading: _Reading) -> None:
    requests = reading.requests()
    if reading.is_isolated:
        requests = _announced(job, requests)
    first = next(requests, None)
    model = reading.model
    if first is None or model is None:
        return
    with ExitStack() as stack:
        started = time.perf_counter()
        try:
            executor: Executor = (
                IsolatedExecutor(job.backend, model)
                if reading.is_isolated
                else stack.enter_context(job.backend.open(model))
            )
        except ModelError as error:
            _give_up(job, model, error)
            reading.is_last = False
            return
        job.ledger.add_statistics(Statistics(load_seconds=time.perf_counter() - started))
        if model.warning:
            job.progress.warn(model.warning)
        num_results = _record_results(job, model, executor, chain([first], requests))
    if num_results != reading.num_requests:
        message = f"{num_results} results for {reading.num_requests} requests came back"
        raise JobError(message)


def _give_up(job: Job, model: ModelIdentity, error: ModelError) -> None:
    """Go on without a model that is not the job's own and answered nothing yet; else raise."""
    is_of_lines = job.models.is_of_lines(model)
    if not is_of_lines or job.ledger.has_results_of(job.models.names_of(model)):
        raise error
    job.progress.warn(f"lines that name model {model.name} fail: {error}")
    job.models.give_up(model, error)
    job.in_flight.take_open()


def _announced(job: Job, requests: Iterator[Request]) -> Iterator[Request]:
    """Say how many of the requests are computed apart since processes died while they were at them.

    Of those at which this run's engine failed it was said when that happened.
    """
    found = list(requests)
    suspects = job.ledger.suspects(DEATHS_BEFORE_ISOLATION)
    if num_deadly := sum(request.key in suspects for request in found):
        job.progress.warn(
            f"{num_deadly:,} requests that may have killed earlier runs are computed in a process "
            "of their own"
        )
    return iter(found)


def _requests_at_fault(job: Job, failure: EngineFailureError, *, is_isolated: bool) -> set[str]:
    """Take the requests that were under way; raise what failed if it cannot have been these."""
    suspects = set(job.in_flight.take_open())
    if is_isolated or not suspects:
        raise failure.error
    kind = type(failure.error).__name__
    job.progress.warn(
        f"the engine failed ({kind}: {failure.error}); the {len(suspects):,} requests that it was "
        "at are computed in a process of their own"
    )
    return suspects


def _record_results(
    job: Job, model: ModelIdentity, executor: Executor, requests: Iterable[Request]
) -> int:
    """Compute requests and keep their results; give how many there were.

    EngineFailureError if the executor fails, ModelError if the model computes no numbers.
    """
    num_results, write_seconds, leading = 0, 0.0, list[str]()
    try:
        with (
            TimelineRecorder(job.ledger, lambda: executor.statistics) as timeline,
            closing(EventFiles(job, model)) as events,
            closing(executor.run(requests, events.add)) as results,
        ):
            for result in _guarded(results):
                started = time.perf_counter()
                events.end(result)
                job.ledger.add(record_of(job, model, result))
                if len(leading) == num_results and _is_no_number(result):
                    leading.append(result.request.key)
                    _check_leading(job, model, leading)
                job.in_flight.end(result.request.key)
                job.progress.advance(1, result.usage.completion_tokens)
                if result.error is not None:
                    job.progress.fail()
                num_results = timeline.num_lines = num_results + 1
                write_seconds += time.perf_counter() - started
    finally:
        job.ledger.add_statistics(replace(executor.statistics, write_seconds=write_seconds))
    return num_results


def _guarded(results: Iterable[Result]) -> Iterator[Result]:
    """Tell failures of the executor, which are not on purpose, from all others."""
    try:
        yield from results
    except AobatchError:
        raise
    except Exception as error:  # whatever a request may set off in the engine
        raise EngineFailureError(error) from error


def _is_no_number(result: Result) -> bool:
    return result.error is not None and result.error.code == NUMERICAL_ERROR


def _check_leading(job: Job, model: ModelIdentity, keys: list[str]) -> None:
    """Raise ModelError, and keep no record, if too many first results hold no usable number."""
    # A model that a line names is no reason to end the job.
    if len(keys) == MAX_LEADING_FAILURES and not job.models.is_of_lines(model):
        job.ledger.forget(keys)
        message = (
            f"model {model.name} computes NaN or infinity: none of its first "
            f"{MAX_LEADING_FAILURES} results has usable numbers; convert or import it again"
        )
        raise ModelError(message)


class TimelineRecorder:
    """Notes what an executor has computed while it is entered, behind the points of earlier runs.

    There is a point at the beginning, one at the end, and now and then one between.
    """

    def __init__(self, ledger: Ledger, statistics: Callable[[], Statistics]) -> None:
        self.num_lines = 0
        """Results so far."""
        self._ledger = ledger
        self._statistics = statistics
        self._points = ledger.points()
        self._before = self._points[-1] if self._points else Point()
        self._run = ledger.statistics.runs or 1
        self._started = time.monotonic()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="timeline", daemon=True)

    def __enter__(self) -> Self:
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()
        with suppress(JobError):
            self._note()

    def _work(self) -> None:
        # A ledger that cannot be written is the business of whoever writes results.
        with suppress(JobError):
            while not self._is_stopped.wait(interval_after(self._points[-1].seconds)):
                self._note()

    def _note(self) -> None:
        seen, before = self._statistics().engine, self._before
        point = Point(
            self._run,
            round(before.seconds + time.monotonic() - self._started, 3),
            before.lines + self.num_lines,
            before.prompt_tokens + seen.prefill_tokens,
            before.new_tokens + seen.sampled_tokens,
            before.rows + seen.decode_rows,
            before.slots + seen.decode_slots,
        )
        self._points.append(point)
        if len(self._points) > MAX_POINTS:
            self._points = thinned(self._points)
            self._ledger.replace_points(self._points)
        else:
            self._ledger.add_point(point)
