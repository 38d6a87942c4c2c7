"""How fast models were on this machine, kept for guesses of how long a job will take."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.errors import AobatchError, JobError
from aobatch.files import write_whole
from aobatch.job.report import UsageReport
from aobatch.models.store.catalogue import resolve
from aobatch.models.store.folder import CacheDtype, ModelFolder
from aobatch.runners.probes import processor_name

MIN_TOKENS, MIN_SECONDS = 1_000, 5.0
"""A job that read or drew fewer tokens, or was shorter, says nothing of speed."""


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second of a model, all cores together."""

    prompt_tokens: float
    new_tokens: float
    source: Literal["run", "bench", "default"]
    """What it was measured by, or that it was not."""
    date: str = ""


_REFERENCE = Speed(1_880, 980, "default")
_REFERENCE_BYTES = 194e6
"""The default model on two cores of Zen 4, and the size of its folder."""


def known_speed(folder: ModelFolder, cache_dtype: CacheDtype, threads: int) -> Speed:
    """Give the last measured speed, else one that follows from the size of the model."""
    known = _read().get(_key(folder, cache_dtype, threads))
    if known is not None:
        return known
    factor = _REFERENCE_BYTES / max(1, folder.size_bytes)
    return Speed(_REFERENCE.prompt_tokens * factor, _REFERENCE.new_tokens * factor, "default")


def note_speed(folder: ModelFolder, cache_dtype: CacheDtype, threads: int, speed: Speed) -> None:
    """Keep a speed; nothing happens where the user's cache folder cannot be written."""
    speeds = _read() | {_key(folder, cache_dtype, threads): speed}
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_path(), msgspec.json.format(msgspec.json.encode(speeds), indent=1) + b"\n")
    except (OSError, JobError):
        return


def note_run(report: UsageReport, cache_dtype: CacheDtype, threads: int) -> None:
    """Keep the speed of a job of one model, if it was long enough to tell."""
    speed = speed_of_run(report.statistics)
    names = [group.name for group in report.by_model if group.name is not None]
    if speed is None or len(names) != 1:
        return
    with suppress(AobatchError):  # the model's name may be that of a folder which moved
        note_speed(resolve(names[0]), cache_dtype, threads, speed)


def speed_of_run(statistics: Mapping[str, float]) -> Speed | None:
    """Give the speed of a job by its statistics, None if it was too short to tell."""
    lanes = statistics.get("lane_seconds", 0.0)
    seconds, prefill = statistics.get("run_seconds", 0.0), statistics.get("prefill_seconds", 0.0)
    tokens, read = statistics.get("decode_rows", 0), statistics.get("prefill_tokens", 0)
    if min(tokens, read) < MIN_TOKENS or seconds < MIN_SECONDS or not 0 < prefill < lanes:
        return None
    # Lanes work side by side, so that each phase has its part of the wall time.
    reading = seconds * prefill / lanes
    return Speed(
        round(read / reading, 1),
        round(tokens / (seconds - reading), 1),
        "run",
        time.strftime("%Y-%m-%d"),
    )


def _path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "aobatch" / "speeds.json"


def _read() -> dict[str, Speed]:
    try:
        return msgspec.json.decode(_path().read_bytes(), type=dict[str, Speed])
    except (OSError, RuntimeError, msgspec.DecodeError):
        return {}


def _key(folder: ModelFolder, cache_dtype: CacheDtype, threads: int) -> str:
    manifest = folder.manifest
    model = f"{manifest.name} {manifest.precision} {manifest.digest[:12]}"
    return f"{model}, {cache_dtype} cache, {threads} threads, {processor_name()}"
