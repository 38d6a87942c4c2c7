"""Every request that has no result yet through the executor of its model, into the ledger."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from aobatch.api.request import FailedLine, Request
from aobatch.errors import JobError, RequestError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.context import Job
from aobatch.job.records import record_of
from aobatch.job.stream import EventFiles


def compute(job: Job) -> None:
    """Fill the ledger; one model is open at a time, for one reading of the inputs each."""
    is_first = True
    while True:
        reading = ModelReading(job, is_first)
        requests = reading.open_requests()
        first = next(requests, None)
        if first is None or reading.model is None:
            return
        started = time.perf_counter()
        with job.backend.open(reading.model) as executor:
            job.ledger.add_statistics({"load_seconds": time.perf_counter() - started})
            num_results = _record(job, reading.model, executor, chain([first], requests))
        if num_results != reading.num_requests:
            message = f"{num_results} results for {reading.num_requests} requests came back"
            raise JobError(message)
        if reading.is_last:
            return
        is_first = False


@dataclass(slots=True)
class ModelReading:
    """One reading of the inputs: the open requests of the first model that has any."""

    job: Job
    is_first: bool
    model: ModelIdentity | None = None
    num_requests: int = 0
    is_last: bool = True

    def open_requests(self) -> Iterator[Request]:
        """Yield the requests to compute now, as late as they are asked for."""
        for line in self.job.source.lines():
            model = None if isinstance(line, FailedLine) else self._model_of(line)
            if isinstance(line, FailedLine) or model is None:
                continue
            self.model = self.model or model
            if model == self.model:
                self.num_requests += 1
                yield line
            else:
                self.is_last = False

    def _model_of(self, request: Request) -> ModelIdentity | None:
        model = self.job.models.find(request.body.model)
        if isinstance(model, RequestError) or request.key in self.job.ledger:
            return None
        return model


def _record(job: Job, model: ModelIdentity, executor: Executor, requests: Iterable[Request]) -> int:
    num_results, write_seconds = 0, 0.0
    try:
        with (
            closing(EventFiles(job, model)) as events,
            closing(executor.run(requests, events.add)) as results,
        ):
            for result in results:
                started = time.perf_counter()
                events.end(result)
                job.ledger.add(record_of(job, model, result))
                job.progress.advance(1, result.usage.completion_tokens)
                num_results += 1
                write_seconds += time.perf_counter() - started
    finally:
        job.ledger.add_statistics({"write_seconds": write_seconds})
        job.ledger.add_statistics(executor.statistics)
    return num_results
