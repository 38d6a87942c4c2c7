"""All lines of a job checked ahead of computing any: what is wrong, and what the rest will take.

The result is shown as a table, or as JSON in the fields of the documented batch object.
"""

import math
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.request import FailedLine, Request
from aobatch.arrays import TokenIds
from aobatch.engine.scheduler import weight
from aobatch.errors import RequestError
from aobatch.job.config import JobConfig
from aobatch.job.models import Vocabularies, Vocabulary
from aobatch.job.plan import Plan, Speed
from aobatch.job.report.text import money
from aobatch.job.report.usage import Cost, GroupUsage, Prices, cost_of, percentiles
from aobatch.job.source import check_inputs, open_source
from aobatch.job.state import StateFolder
from aobatch.text import counted, duration, printable

BLOCK = 512
"""Prompts that are tokenised together; long ones count as several."""
IN_MEMORY = 2**24

Line: TypeAlias = Request | FailedLine


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with a line, in the fields of the documented batch object."""

    code: str
    line: int
    message: str
    param: str | None
    file: str | msgspec.UnsetType = msgspec.UNSET
    """The input that the line is in, if there are several."""


class LineCounts(msgspec.Struct, frozen=True):
    """How many lines there are and what they are."""

    total: int
    right: int
    bad: int
    bad_by_code: dict[str, int]
    duplicate_custom_ids: int
    prompts: int
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
    cost: Cost | None = None
    """At most, if every completion is as long as it may be; null without prices."""


def with_cost(found: Validation, vocabularies: Vocabularies, prices: Prices | None) -> Validation:
    """Add what the tokens will cost at most; without prices it stays as it is."""
    if prices is None:
        return found
    groups = []
    for model in vocabularies.opened:
        prompt, new = sum(model.prompt_lengths), model.new_tokens
        name = model.folder.manifest.name
        groups.append(GroupUsage(name, 0, 0, prompt, new, prompt + new))
    return msgspec.structs.replace(found, cost=cost_of(groups, prices))


def validate(
    config: JobConfig,
    vocabularies: Vocabularies,
    plan: Callable[[Vocabulary], Plan],
    on_error: Callable[[BatchError], None],
) -> Validation:
    """Check every line as a run would, in order, without loading weights."""
    facts = check_inputs(config)
    num_lines = num_prompts = 0
    codes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
        source = open_source(config, StateFolder(Path(folder)), facts)
        for line, error in _checked(source.lines(), vocabularies):
            num_lines += 1
            if error is not None:
                codes[error.code] += 1
                file, number = source.named_place(line.line)
                named = msgspec.UNSET if file is None else file
                on_error(BatchError(error.code, number, error.message, error.param, named))
            elif isinstance(line, Request):
                num_prompts += len(line.body.prompts)
    counts = LineCounts(
        total=num_lines,
        right=num_lines - codes.total(),
        bad=codes.total(),
        bad_by_code=dict(codes.most_common()),
        duplicate_custom_ids=codes["duplicate_custom_id"],
        prompts=num_prompts,
    )
    opened = vocabularies.opened
    tokens = _count_tokens(opened, codes["context_length_exceeded"]) if opened else None
    plans = [plan(vocabulary) for vocabulary in opened if vocabulary.load.requests]
    return Validation(counts, tokens, plans, vocabularies.notes)


class _Block(NamedTuple):
    """Neighbouring lines with their models, and their texts while they are tokenised."""

    lines: list[tuple[Line, Vocabulary | RequestError | None]]
    texts: list[tuple[Vocabulary, Future[Mapping[str, TokenIds]]]]


def _checked(
    lines: Iterable[Line], vocabularies: Vocabularies
) -> Iterator[tuple[Line, ErrorObject | None]]:
    """Check block by block; the next one is parsed while the tokenizer is at one."""
    with ThreadPoolExecutor(1) as pool:
        blocks = (_begin(block, vocabularies, pool) for block in _blocks(lines))
        for block, _ in pairwise(chain(blocks, [_Block([], [])])):
            for vocabulary, texts in block.texts:
                vocabulary.hold(texts.result())
            for line, found in block.lines:
                yield line, _error_of(line, found)


def _blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    block: list[Line] = []
    size = 0
    for line in lines:
        block.append(line)
        size += 1 if isinstance(line, FailedLine) else max(1, weight(line))
        if size >= BLOCK:
            yield block
            block, size = [], 0
    yield block


def _begin(lines: Sequence[Line], vocabularies: Vocabularies, pool: Executor) -> _Block:
    block = _Block([], [])
    requests: dict[Vocabulary, list[Request]] = {}
    for line in lines:
        found = vocabularies.find(line.body.model) if isinstance(line, Request) else None
        block.lines.append((line, found))
        if isinstance(line, Request) and isinstance(found, Vocabulary):
            requests.setdefault(found, []).append(line)
    for model, mine in requests.items():
        block.texts.append((model, pool.submit(model.read_ahead, mine)))
    return block


def _error_of(line: Line, found: Vocabulary | RequestError | None) -> ErrorObject | None:
    if isinstance(line, FailedLine):
        return line.error
    error = found.check(line) if isinstance(found, Vocabulary) else found
    return None if error is None else error_object(error)


def _count_tokens(opened: Sequence[Vocabulary], num_exceeding: int) -> TokenCounts:
    lengths = array("q", chain.from_iterable(model.prompt_lengths for model in opened))
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


class ErrorSpool:
    """Bad lines on their way into the JSON."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - see close
        self._separator = b""

    def close(self) -> None:
        """Discard them."""
        self._file.close()

    def add(self, error: BatchError) -> None:
        """Keep a bad line."""
        self._file.write(self._separator + msgspec.json.encode(error))
        self._separator = b",\n"

    def lines(self, found: Validation) -> Iterator[str]:
        """Yield all as one object, a bad line each, with the errors as a batch object has them."""
        head = msgspec.json.encode(found).decode()[:-1]
        yield f'{head},"errors":{{"object":"list","data":['
        self._file.seek(0)
        for line in self._file:
            yield line.decode().removesuffix("\n")
        yield "]}}"


def error_line(error: BatchError) -> str:
    """Write a bad line in one line."""
    param = "" if error.param is None else f" ({printable(error.param)})"
    file = "" if error.file is msgspec.UNSET else f"{printable(error.file, 300)} "
    return f"{file}line {error.line}: {error.code}{param}: {printable(error.message, 300)}"


def validation_table(found: Validation) -> str:
    """Lay out counts, tokens and plan."""
    plans = map(_plan, found.plans)
    return "\n".join([*_counts(found), *plans, *_cost(found.cost), *found.notes])


def _cost(cost: Cost | None) -> Iterator[str]:
    if cost is None:
        return
    without = ", ".join(map(printable, cost.unpriced))
    others = f", without {without}, which has no price" if without else ""
    yield f"cost: {money(cost.total)} {printable(cost.currency)} at most{others}"


def _counts(found: Validation) -> Iterator[str]:
    lines, tokens = found.lines, found.tokens
    yield (
        f"{counted(lines.total, 'line')}: {lines.right:,} right with "
        f"{counted(lines.prompts, 'prompt')}, {lines.bad:,} bad"
    )
    if lines.bad_by_code:
        codes = ", ".join(f"{count:,} {code}" for code, count in lines.bad_by_code.items())
        yield f"bad: {codes}"
    if tokens is None:
        return
    yield (
        f"prompt tokens: {tokens.total:,} in all; a prompt has {tokens.min:,} to {tokens.max:,}, "
        f"mean {tokens.mean:,.1f}, p50 {tokens.p50:,}, p90 {tokens.p90:,}"
    )
    yield f"new tokens: {tokens.new_tokens_at_most:,} at most"
    if tokens.context_length_exceeded:
        yield f"requests that exceed the context: {tokens.context_length_exceeded:,}"


def _plan(plan: Plan) -> str:
    parts = (plan.time.start, plan.time.reading, plan.time.writing)
    whole, start, reading, writing = (
        duration(math.ceil(seconds), is_exact=False) for seconds in (plan.seconds, *parts)
    )
    return (
        f"plan: {plan.model} answers {counted(plan.requests, 'request')} in "
        f"{counted(plan.slots, 'slot')} of {plan.capacity:,} tokens, "
        f"{plan.kv_cache_bytes / 1e6:,.0f} MB of keys and values beside "
        f"{plan.weights_bytes / 1e6:,.0f} MB of weights\n"
        f"time: about {whole}: {start} to start, {reading} to read prompts, {writing} to write, at "
        f"{_origin(plan.speed)}"
    )


def _origin(speed: Speed) -> str:
    if speed.source == "default":
        return "speeds that are guessed from the size of the model (`aobatch bench` measures them)"
    return f"speeds that `aobatch {speed.source}` measured here on {speed.date}"
