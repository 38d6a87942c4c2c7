"""Jobs of bad lines between good ones, for tests: each bad line is one error, and nothing else."""

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fakes import FakeBackend
from job_files import output, run

from aobatch.api.request import Request
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Listener
from aobatch.executors import ModelIdentity, Statistics
from aobatch.testing import scripted_engine


@dataclass(frozen=True)
class Bad:
    """A line, as bytes or fields, and the error that it is to become."""

    line: bytes | dict[str, object] | list[object]
    code: str
    param: str | None = None
    custom_id: str | None = None
    status: int = 400

    @property
    def raw(self) -> bytes:
        """The bytes of the line."""
        return self.line if isinstance(self.line, bytes) else json.dumps(self.line).encode()


class ScriptedBackend(FakeBackend):
    """The fake backend's models, computed by the engine over a scripted model of 257 tokens."""

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator["ScriptedExecutor"]:
        """Open an engine."""
        self.opened.append(model.name)
        yield ScriptedExecutor()


class ScriptedExecutor:
    """The engine as an executor without statistics."""

    statistics = Statistics()

    def run(
        self, requests: Iterable[Request], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Compute every request."""
        yield from scripted_engine().run(requests, listener)


def check_bad_lines(
    folder: Path, bad: Iterable[Bad], backend: FakeBackend | None = None, **fields: object
) -> None:
    """Run a job of the bad lines with a good one around each; every line is as it should be."""
    bad = list(bad)
    good = b'{"prompt":"good","max_tokens":1}'
    raws = [good, *(raw for line in bad for raw in (line.raw, good))]
    (folder / "in.jsonl").write_bytes(b"\n".join(raws))

    report = run(folder, backend, **fields).report

    lines = output(folder)
    assert len(lines) == len(raws)
    assert all("choices" in line for line in lines[::2])
    for number, line, expected in zip(range(2, len(raws), 2), lines[1::2], bad, strict=True):
        assert found(line, number) == expected_error(expected, number), expected.raw[:100]
    assert (report.requests.total, report.requests.failed) == (len(raws), len(bad))


def found(line: dict, number: int) -> tuple[object, ...]:  # type: ignore[type-arg]
    """Read from an output line what identifies its error."""
    is_envelope = "response" in line
    answer = line["response"] if is_envelope else line
    error = answer["body"]["error"] if is_envelope else line["error"]
    place = number if is_envelope else line["line"]
    assert {*error} == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) <= 300
    return place, answer["status_code"], error["code"], error["param"], line.get("custom_id")


def expected_error(bad: Bad, number: int) -> tuple[object, ...]:
    """Give what `found` is to find."""
    return number, bad.status, bad.code, bad.param, bad.custom_id
