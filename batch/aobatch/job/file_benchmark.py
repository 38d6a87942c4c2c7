"""Files alone, measured: how fast requests are read and results are written, without a model."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aobatch.formats import COMPRESSIONS, find_format, write_records
from aobatch.job.benchmark import request_lines
from aobatch.job.config import JobConfig
from aobatch.job.source import Source

NUM_ROWS = 100_000
KINDS = (".jsonl", *(f".jsonl{suffix}" for suffix in COMPRESSIONS), ".parquet")


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
    with tempfile.TemporaryDirectory(prefix="aobatch-bench-") as folder:
        for place, suffix in enumerate(KINDS):
            progress("measuring files", place, len(KINDS))
            speeds.append(_measure(Path(folder) / f"rows{suffix}", num_rows))
    progress("measuring files", len(KINDS), len(KINDS))
    return speeds


def _measure(path: Path, num_rows: int) -> FileSpeed:
    results_per_second = num_rows / _write(path, _results(num_rows))
    # A table of results is one of requests too, whose prompts are the texts.
    columns = {"prompt": "text"} if find_format(path).is_table else {}
    if not columns:
        _write(path, [line.encode() for line in request_lines(num_rows, {})])
    source = Source(JobConfig((path,), path, columns=columns), (path,), ("",))
    start = time.perf_counter()
    num_requests = sum(1 for _ in source.lines())
    return FileSpeed(
        "".join(path.suffixes),
        num_requests / (time.perf_counter() - start),
        results_per_second,
    )


def _write(path: Path, records: list[bytes]) -> float:
    start = time.perf_counter()
    with path.open("wb") as stream:
        write_records(records, stream, path)
    return time.perf_counter() - start


def _results(num_rows: int) -> list[bytes]:
    """Give responses that tell different texts."""
    usage = {"prompt_tokens": 20, "completion_tokens": 64, "total_tokens": 84}
    fixed = {"object": "text_completion", "created": 0, "model": "bench", "usage": usage}
    texts = (json.loads(line)["prompt"] for line in request_lines(num_rows, {}))
    return [
        json.dumps(
            {
                "id": f"cmpl-{index}",
                **fixed,
                "choices": [
                    {"text": text * 4, "index": 0, "logprobs": None, "finish_reason": "length"}
                ],
            }
        ).encode()
        for index, text in enumerate(texts)
    ]
