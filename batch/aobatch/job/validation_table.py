"""A validation as text for people."""

import math
from collections.abc import Iterator

from aobatch.job.plan import Plan
from aobatch.job.speeds import Speed
from aobatch.job.validation import BatchError, Validation
from aobatch.text import counted, printable


def error_line(error: BatchError) -> str:
    """Give a bad line in one line."""
    param = "" if error.param is None else f" ({printable(error.param)})"
    return f"line {error.line}: {error.code}{param}: {printable(error.message, 300)}"


def validation_table(found: Validation) -> str:
    """Lay out counts, tokens and plan."""
    return "\n".join([*_lines(found), *_tokens(found), *_plans(found), *found.notes])


def _lines(found: Validation) -> Iterator[str]:
    lines = found.lines
    yield (
        f"{counted(lines.total, 'line')}: {lines.right:,} right with "
        f"{counted(lines.prompts, 'prompt')}, {lines.bad:,} bad"
    )
    if lines.bad_by_code:
        codes = ", ".join(f"{count:,} {code}" for code, count in lines.bad_by_code.items())
        yield f"bad: {codes}"


def _tokens(found: Validation) -> Iterator[str]:
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
        yield f"time: {_duration(plan)} at most, at {_origin(plan.speed)}"


def _origin(speed: Speed) -> str:
    rates = f"{speed.prompt_tokens:,.0f} prompt and {speed.new_tokens:,.0f} new tokens a second"
    if speed.source == "default":
        return f"{rates} (not measured here: a guess for two cores; `aobatch bench` measures)"
    return f"{rates} (measured here on {speed.date} by `aobatch {speed.source}`)"


def _duration(plan: Plan) -> str:
    seconds = plan.seconds_at_most
    if seconds < 120:
        return f"{math.ceil(seconds):,} s"
    minutes = seconds / 60
    return f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"
