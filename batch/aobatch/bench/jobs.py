"""Speeds of whole jobs and where their time goes, and of reading and writing files alone."""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aobatch.api.response import Choice, Completion, Usage
from aobatch.executors import Backend
from aobatch.formats import COMPRESSIONS, find_format, write_records
from aobatch.job.config import JobConfig
from aobatch.job.report.usage import UsageReport
from aobatch.job.runner import run_job
from aobatch.job.source import Input, Source
from aobatch.kernels import Kernels
from aobatch.models.convert.quality import quality_text

NUM_REQUESTS = 256
WORDS_PER_PROMPT = 12
NEW_TOKENS = 64
KINDS: Mapping[str, Mapping[str, object]] = {
    "greedy": {"temperature": 0},
    "temperature 1, top_p 0.95": {"temperature": 1, "top_p": 0.95},
}
"""What the requests of a measured job ask for."""


@dataclass(frozen=True, slots=True)
class JobSpeed:
    """One job, all seconds in wall time."""

    kind: str
    kernels: Kernels
    num_requests: int
    new_tokens: int
    load_seconds: float
    """To open the model."""
    run_seconds: float
    """From the first request that was read to the last result that was written."""
    publish_seconds: float
    """All else: the output, the report, the job's own state."""
    model_share: float
    """Part of the lanes' time spent inside the model's runs, prefill and decode."""
    sampling_share: float
    bookkeeping_share: float
    idle_share: float
    """Part in which a lane had nothing to do: at the beginning and at the end."""
    writing_share: float
    """Part of run_seconds in which the main thread wrote results; lanes go on meanwhile."""
    occupancy: float
    """Part of the slots in use while requests waited."""
    peak_bytes: int
    """Of this process so far."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens over run_seconds."""
        return self.new_tokens / self.run_seconds


def benchmark_job(
    backend: Backend, model: Path, num_lanes: int, kind: str, job: Path | None
) -> JobSpeed:
    """Run a job in a folder of its own: a file's requests, or 256 of 64 new tokens each."""
    with tempfile.TemporaryDirectory(prefix="aobatch-bench-") as name:
        folder = Path(name)
        source = job or folder / "bench.jsonl"
        if job is None:
            _write(source, [*request_lines(NUM_REQUESTS, KINDS[kind])])
        config = JobConfig((source,), folder / "out.jsonl", model=str(model))
        return _speed(kind, num_lanes, run_job(config, backend).report)


def _speed(kind: str, num_lanes: int, report: UsageReport) -> JobSpeed:
    seen, engine = report.counted, report.counted.engine
    model = engine.prefill_seconds + engine.decode_seconds
    lanes = num_lanes * engine.run_seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return JobSpeed(
        kind=kind,
        kernels="fused" if report.job.models[0].kernels == "fused" else "stock",
        num_requests=report.requests.total,
        new_tokens=report.usage.completion_tokens,
        load_seconds=seen.load_seconds,
        run_seconds=engine.run_seconds,
        publish_seconds=seen.job_seconds - engine.run_seconds - seen.load_seconds,
        model_share=model / lanes,
        sampling_share=engine.sample_seconds / lanes,
        bookkeeping_share=(engine.lane_seconds - model - engine.sample_seconds) / lanes,
        idle_share=1 - engine.lane_seconds / lanes,
        writing_share=seen.write_seconds / engine.run_seconds,
        occupancy=engine.busy_rows / max(1, engine.busy_slots),
        peak_bytes=peak if sys.platform == "darwin" else peak * 1024,
    )


def request_lines(num_requests: int, parameters: Mapping[str, object]) -> Iterator[bytes]:
    """Yield requests with different prompts, cut from the shipped text."""
    words = quality_text().split()
    for index in range(num_requests):
        start = index * WORDS_PER_PROMPT % (len(words) - WORDS_PER_PROMPT)
        prompt = " ".join([f"{index}.", *words[start : start + WORDS_PER_PROMPT]])
        fixed = {"prompt": prompt, "max_tokens": NEW_TOKENS, "ignore_eos": True}
        yield json.dumps(fixed | dict(parameters)).encode()


NUM_ROWS = 100_000
FILE_KINDS = (".jsonl", *(f".jsonl{suffix}" for suffix in COMPRESSIONS), ".parquet", ".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class FileSpeed:
    """One kind of file."""

    suffix: str
    requests_per_second: float
    """Read, checked and keyed, as a job reads them."""
    results_per_second: float
    """Written, without waiting for the disk."""


def benchmark_files(
    progress: Callable[[str, int, int], None], num_rows: int = NUM_ROWS
) -> list[FileSpeed]:
    """Write results and read requests of every kind of file in a folder of its own."""
    speeds = []
    requests = [*request_lines(num_rows, {})]
    with tempfile.TemporaryDirectory(prefix="aobatch-bench-") as folder:
        for place, suffix in enumerate(FILE_KINDS):
            progress("measuring files", place, len(FILE_KINDS))
            speeds.append(_measure(Path(folder) / f"rows{suffix}", requests))
    progress("measuring files", len(FILE_KINDS), len(FILE_KINDS))
    return speeds


def _measure(path: Path, requests: Sequence[bytes]) -> FileSpeed:
    results_per_second = len(requests) / _write(path, _results(requests))
    # A table of results is one of requests too, whose prompts are the texts.
    columns = {"prompt": "text"} if find_format(path).has_columns else {}
    if not columns:
        _write(path, requests)
    source = Source(JobConfig((path,), path, columns=columns), [Input(path)])
    start = time.perf_counter()
    num_requests = sum(1 for _ in source.lines())
    requests_per_second = num_requests / (time.perf_counter() - start)
    return FileSpeed("".join(path.suffixes), requests_per_second, results_per_second)


def _write(path: Path, records: Sequence[bytes]) -> float:
    start = time.perf_counter()
    with path.open("wb") as stream:
        write_records(records, stream, path)
    return time.perf_counter() - start


def _results(requests: Sequence[bytes]) -> list[bytes]:
    """Make responses that tell different texts, four times as long as the prompts."""
    return [
        msgspec.json.encode(
            Completion(
                id=f"cmpl-{index}",
                created=0,
                model="bench",
                choices=[Choice(json.loads(line)["prompt"] * 4, 0, None, "length")],
                usage=Usage(20, 64, 84),
                system_fingerprint="fp_bench",
            )
        )
        for index, line in enumerate(requests)
    ]
