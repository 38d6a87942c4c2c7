"""What a usage report says beside its tables, as short labelled sentences."""

import re
from collections.abc import Iterator, Mapping

from aobatch.job.percentiles import Percentiles
from aobatch.job.prices import Cost
from aobatch.job.report import UsageReport

_SHARED = {
    "prefix_tokens_shared": "prompt tokens of common beginnings",
    "requests_shared": "results of equal requests",
}
"""What statistics count that was computed once for several."""
_WORKER = re.compile(r"worker_\d+")


def notes(report: UsageReport) -> Iterator[tuple[str, str]]:
    """Give the labels and what stands behind them; names are left as requests give them."""
    facts = report.job
    if facts is not None and facts.state != "finished":
        yield "state", f"{facts.state}: {report.requests.total:,} of {facts.lines:,} lines answered"
    if report.finish_reasons:
        yield "finish reasons", counts(report.finish_reasons)
        spread = (
            ("prompt tokens a request", report.prompt_tokens, "{:,.0f}"),
            ("new tokens a request", report.completion_tokens, "{:,.0f}"),
            ("seconds a request", report.seconds, "{:,.2f}"),
        )
        for label, values, form in spread:
            if values.p50 is not None:
                yield label, percentiles(values, form)
    if shared := savings(report.statistics):
        yield "shared", ", ".join(f"{count:,.0f} {what}" for what, count in shared.items())
    if (share := occupancy(report.statistics)) is not None:
        yield "slots in use", f"{share:.1%} while requests waited"
    if rates := worker_rates(report.statistics):
        yield "workers", _workers(rates)
    if report.cost is not None:
        yield "cost", cost(report.cost)
    yield "time", _time(report)


def savings(statistics: Mapping[str, float]) -> dict[str, float]:
    """Say what was not computed twice."""
    counted = {what: statistics.get(name, 0) for name, what in _SHARED.items()}
    return {what: count for what, count in counted.items() if count}


def occupancy(statistics: Mapping[str, float]) -> float | None:
    """Say how full the slots were while requests waited, None if none had to."""
    slots = statistics.get("busy_slots", 0)
    return statistics.get("busy_rows", 0) / slots if slots else None


def worker_rates(statistics: Mapping[str, float]) -> list[float]:
    """Give the new tokens a second of each worker, if there were workers."""
    rates = []
    for name, seconds in statistics.items():
        worker, is_worker, _ = name.rpartition("_seconds")
        if is_worker and _WORKER.fullmatch(worker) and seconds:
            rates.append(statistics.get(f"{worker}_sampled_tokens", 0) / seconds)
    return rates


def counts(numbers: Mapping[str, int]) -> str:
    """List how often there was what."""
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())


def percentiles(values: Percentiles, form: str) -> str:
    """List percentiles."""
    named = (("p50", values.p50), ("p90", values.p90), ("p99", values.p99))
    return ", ".join(f"{name} {form.format(value)}" for name, value in named if value is not None)


def cost(amount: Cost) -> str:
    """Say what a job cost, and which models are not in it."""
    text = f"{money(amount.total)} {amount.currency}"
    if amount.unpriced:
        text += f", without a price for {', '.join(amount.unpriced)}"
    return text


def money(amount: float) -> str:
    """Write an amount with as many digits as small ones need."""
    digits = 2 if amount >= 100 else 4 if amount >= 0.001 or not amount else 6
    return f"{amount:,.{digits}f}"


def duration(seconds: float) -> str:
    """Write a time in its two greatest units."""
    if seconds < 60:
        return f"{seconds:.{1 if seconds >= 10 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _workers(rates: list[float]) -> str:
    spread = " to ".join(dict.fromkeys(f"{rate:,.0f}" for rate in (min(rates), max(rates))))
    return f"{len(rates):,}, {spread} new tokens a second{' each' if len(rates) > 1 else ''}"


def _time(report: UsageReport) -> str:
    wall_seconds = report.statistics.get("wall_seconds", 0.0)
    model_seconds = report.statistics.get("model_seconds", 0.0)
    fetching = (
        f" ({duration(model_seconds)} of them to get the model)" if model_seconds >= 1 else ""
    )
    speed = f"{report.tokens_per_second:,.1f} new tokens a second"
    return f"{duration(wall_seconds)}{fetching}, {speed}"
