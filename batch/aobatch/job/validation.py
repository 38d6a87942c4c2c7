"""All lines of a job checked ahead of computing any: what is wrong, and what the rest will take."""

import math
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.request import FailedLine, Request
from aobatch.arrays import TokenIds
from aobatch.engine.scheduler import weight
from aobatch.errors import RequestError
from aobatch.job.config import JobConfig
from aobatch.job.models import Vocabularies, Vocabulary
from aobatch.job.plan import Plan, Speed
from aobatch.job.report.usage import percentiles
from aobatch.job.source import Source, StateFolder, check_inputs, open_source
from aobatch.text import counted, duration, printable

BLOCK = 512
"""Prompts that are tokenised together; long ones count as several."""


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with a line, in the fields of the documented batch object."""

    code: str
    line: int
    message: str
    param: str | None


class LineCounts(msgspec.Struct):
    """How many lines there are and what they are."""

    total: int = 0
    right: int = 0
    bad: int = 0
    bad_by_code: dict[str, int] = {}
    duplicate_custom_ids: int = 0
    prompts: int = 0
    """Of the lines that are right."""


class TokenCounts(msgspec.Struct, frozen=True):
    """Tokens of the lines that are right, a prompt at a time."""

    min: int
    mean: float
    p50: int
    p90: int
    max: int
    total: int
    new_tokens_at_most: int
    context_length_exceeded: int
    """Bad lines that a model's context has no room for."""


class Validation(msgspec.Struct, frozen=True):
    """What is known of a job ahead of it."""

    lines: LineCounts
    tokens: TokenCounts | None
    """None if no model of the lines is here."""
    plans: list[Plan]
    notes: list[str]
    """What could not be checked, and why."""


def validate(
    config: JobConfig,
    vocabularies: Vocabularies,
    plan: Callable[[Vocabulary], Plan],
    on_error: Callable[[BatchError], None],
) -> Validation:
    """Check every line as a run would, in order, without loading weights."""
    num_rows = check_inputs(config)
    with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
        source = open_source(config, StateFolder(Path(folder)), num_rows)
        counts = LineCounts()
        by_code: Counter[str] = Counter()
        for line, error in _checked(source, vocabularies):
            counts.total += 1
            if error is None:
                assert isinstance(line, Request)
                counts.prompts += len(line.body.prompts)
                continue
            by_code[error.code] += 1
            on_error(BatchError(error.code, line.line, error.message, error.param))
    counts.bad = by_code.total()
    counts.right = counts.total - counts.bad
    counts.bad_by_code = dict(by_code.most_common())
    counts.duplicate_custom_ids = by_code["duplicate_custom_id"]
    opened = vocabularies.opened
    exceeding = by_code["context_length_exceeded"]
    plans = [plan(vocabulary) for vocabulary in opened if vocabulary.load.requests]
    return Validation(counts, _tokens(opened, exceeding), plans, vocabularies.notes)


Found: TypeAlias = Vocabulary | RequestError | None
"""The model of a line, or why its request cannot be held against one."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring lines, their models, and their texts while they are tokenised."""

    lines: Sequence[Request | FailedLine]
    models: Sequence[Found]
    texts: Sequence[tuple[Vocabulary, Future[Mapping[str, TokenIds]]]]

    def errors(self) -> Iterator[tuple[Request | FailedLine, ErrorObject | None]]:
        """Yield each line with its error, if it has one."""
        for vocabulary, texts in self.texts:
            vocabulary.hold(texts.result())
        for line, model in zip(self.lines, self.models, strict=True):
            yield line, _error_of(line, model)


def _checked(
    source: Source, vocabularies: Vocabularies
) -> Iterator[tuple[Request | FailedLine, ErrorObject | None]]:
    """Check block by block; the next one is parsed while the tokenizer is at one."""
    with ThreadPoolExecutor(1) as pool:
        ahead: Block | None = None
        for read in _blocks(source.lines()):
            block = _begin(read, vocabularies, pool)
            if ahead is not None:
                yield from ahead.errors()
            ahead = block
        if ahead is not None:
            yield from ahead.errors()


def _blocks(lines: Iterable[Request | FailedLine]) -> Iterator[list[Request | FailedLine]]:
    block: list[Request | FailedLine] = []
    size = 0
    for line in lines:
        block.append(line)
        size += 1 if isinstance(line, FailedLine) else max(1, weight(line))
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _begin(
    lines: Sequence[Request | FailedLine], vocabularies: Vocabularies, pool: Executor
) -> Block:
    models = [_model_of(line, vocabularies) for line in lines]
    requests: dict[Vocabulary, list[Request]] = {}
    for line, model in zip(lines, models, strict=True):
        if isinstance(model, Vocabulary) and isinstance(line, Request):
            requests.setdefault(model, []).append(line)
    texts = [(model, pool.submit(model.read_ahead, mine)) for model, mine in requests.items()]
    return Block(lines, models, texts)


def _model_of(line: Request | FailedLine, vocabularies: Vocabularies) -> Found:
    return None if isinstance(line, FailedLine) else vocabularies.find(line.body.model)


def _error_of(line: Request | FailedLine, found: Found) -> ErrorObject | None:
    if isinstance(line, FailedLine):
        return line.error
    error = found.check(line) if isinstance(found, Vocabulary) else found
    return None if error is None else error_object(error)


def _tokens(opened: Sequence[Vocabulary], num_exceeding: int) -> TokenCounts | None:
    if not opened:
        return None
    lengths = array("q")
    for vocabulary in opened:
        lengths.extend(vocabulary.prompt_lengths)
    spread, total = percentiles(lengths), sum(lengths)
    return TokenCounts(
        min=min(lengths, default=0),
        mean=round(total / max(1, len(lengths)), 1),
        p50=int(spread.p50 or 0),
        p90=int(spread.p90 or 0),
        max=max(lengths, default=0),
        total=total,
        new_tokens_at_most=sum(vocabulary.new_tokens for vocabulary in opened),
        context_length_exceeded=num_exceeding,
    )


IN_MEMORY = 2**24


class ErrorSpool:
    """Bad lines on their way into the JSON."""

    def __init__(self) -> None:
        self._file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed on leaving
        self._is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, error: BatchError) -> None:
        """Keep a bad line."""
        self._file.write((b"" if self._is_empty else b",\n") + msgspec.json.encode(error))
        self._is_empty = False

    def lines(self, found: Validation) -> Iterator[str]:
        """Yield all as one object, a bad line each, with the errors as a batch object has them."""
        head = msgspec.json.encode(found).decode()[:-1]
        yield f'{head},"errors":{{"object":"list","data":['
        self._file.seek(0)
        for line in self._file:
            yield line.decode().removesuffix("\n")
        yield "]}}"


def error_line(error: BatchError) -> str:
    """Give a bad line in one line."""
    param = "" if error.param is None else f" ({printable(error.param)})"
    return f"line {error.line}: {error.code}{param}: {printable(error.message, 300)}"


def validation_table(found: Validation) -> str:
    """Lay out counts, tokens and plan."""
    return "\n".join([*_lines(found), *_token_cells(found), *_plans(found), *found.notes])


def _lines(found: Validation) -> Iterator[str]:
    lines = found.lines
    yield (
        f"{counted(lines.total, 'line')}: {lines.right:,} right with "
        f"{counted(lines.prompts, 'prompt')}, {lines.bad:,} bad"
    )
    if lines.bad_by_code:
        codes = ", ".join(f"{count:,} {code}" for code, count in lines.bad_by_code.items())
        yield f"bad: {codes}"


def _token_cells(found: Validation) -> Iterator[str]:
    tokens = found.tokens
    if tokens is None:
        return
    yield (
        f"prompt tokens: {tokens.total:,} in all; a prompt has {tokens.min:,} to {tokens.max:,}, "
        f"mean {tokens.mean:,.1f}, p50 {tokens.p50:,}, p90 {tokens.p90:,}"
    )
    yield f"new tokens: {tokens.new_tokens_at_most:,} at most"
    if tokens.context_length_exceeded:
        yield f"requests that exceed the context: {tokens.context_length_exceeded:,}"


def _plans(found: Validation) -> Iterator[str]:
    for plan in found.plans:
        yield (
            f"plan: {plan.model} answers {counted(plan.requests, 'request')} in "
            f"{counted(plan.slots, 'slot')} of {plan.capacity:,} tokens, "
            f"{_megabytes(plan.kv_cache_bytes)} MB of keys and values beside "
            f"{_megabytes(plan.weights_bytes)} MB of weights"
        )
        time = duration(math.ceil(plan.seconds_at_most), is_exact=False)
        yield f"time: {time} at most, at {_origin(plan.speed)}"


def _origin(speed: Speed) -> str:
    rates = f"{speed.prompt_tokens:,.0f} prompt and {speed.new_tokens:,.0f} new tokens a second"
    if speed.source == "default":
        return f"{rates} (not measured here: a guess for two cores; `aobatch bench` measures)"
    return f"{rates} (measured here on {speed.date} by `aobatch {speed.source}`)"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"
