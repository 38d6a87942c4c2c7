"""What a job will take: slots, memory and time, as far as that can be told ahead."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.scheduler import Scheduler, capacity_for, lane_count
from aobatch.errors import AobatchError, JobError
from aobatch.files import cache_folder, write_whole
from aobatch.job.report.usage import UsageReport
from aobatch.models.store.catalogue import resolve
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig, processor_name
from aobatch.runners.choice import choose_kernels

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


def known_speed(folder: ModelFolder, runner: RunnerConfig) -> Speed:
    """Look up the last measured speed, else one that follows from the size of the model."""
    known = _read().get(_key(folder, runner))
    if known is not None:
        return known
    factor = _REFERENCE_BYTES / max(1, folder.size_bytes)
    return Speed(_REFERENCE.prompt_tokens * factor, _REFERENCE.new_tokens * factor, "default")


def note_speed(folder: ModelFolder, runner: RunnerConfig, speed: Speed) -> None:
    """Keep a speed; nothing happens where the user's cache folder cannot be written."""
    speeds = _read() | {_key(folder, runner): speed}
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_path(), msgspec.json.format(msgspec.json.encode(speeds), indent=1) + b"\n")
    except (OSError, JobError):
        return


def note_run(report: UsageReport, runner: RunnerConfig) -> None:
    """Keep the speed of a job of one model, if it was long enough to tell."""
    speed = speed_of_run(report.counted.engine)
    names = [group.name for group in report.by_model if group.name is not None]
    if speed is None or len(names) != 1:
        return
    with suppress(AobatchError):  # the model's name may be that of a folder which moved
        note_speed(resolve(names[0]), runner, speed)


def speed_of_run(seen: EngineStatistics) -> Speed | None:
    """Work out the speed of a job by what its engine counted, None if it was too short to tell."""
    tokens, read, seconds = seen.decode_rows, seen.prefill_tokens, seen.run_seconds
    is_long = min(tokens, read) >= MIN_TOKENS and seconds >= MIN_SECONDS
    if not is_long or not 0 < seen.prefill_seconds < seen.lane_seconds:
        return None
    # Lanes work side by side, so that each phase has its part of the wall time.
    reading = seconds * seen.prefill_seconds / seen.lane_seconds
    return Speed(
        round(read / reading, 1),
        round(tokens / (seconds - reading), 1),
        "run",
        time.strftime("%Y-%m-%d"),
    )


def _path() -> Path:
    return cache_folder() / "speeds.json"


def _read() -> dict[str, Speed]:
    try:
        return msgspec.json.decode(_path().read_bytes(), type=dict[str, Speed])
    except (OSError, RuntimeError, msgspec.DecodeError):
        return {}


def _key(folder: ModelFolder, runner: RunnerConfig) -> str:
    manifest, choice = folder.manifest, choose_kernels(folder, runner)
    model = f"{manifest.name} {manifest.precision} {manifest.digest[:12]}"
    kind = f"{choice.kernels}, {choice.cache_dtype} cache"
    return f"{model}, {kind}, {runner.threads} threads, {processor_name()}"


class Plan(msgspec.Struct, frozen=True):
    """How the requests of one model would be computed."""

    model: str
    requests: int
    slots: int
    """Sequences side by side, if all were as long as the longest."""
    capacity: int
    """Tokens that a slot has room for."""
    kv_cache_bytes: int
    weights_bytes: int
    seconds_at_most: float
    """If every completion is as long as it may be."""
    speed: Speed
    """What the seconds are guessed from."""


class Workload(msgspec.Struct):
    """The tokens of one model's requests while they are added up."""

    requests: int = 0
    sequences: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    """New tokens at most, equal candidates once."""
    longest: int = 0
    """Tokens of the longest sequence with its prompt."""


def plan_of(
    folder: ModelFolder, load: Workload, config: EngineConfig, runner: RunnerConfig, speed: Speed
) -> Plan:
    """Say what a model's requests take under a configuration."""
    per_token = folder.kv_bytes_per_token(choose_kernels(folder, runner).cache_dtype)
    capacity = capacity_for(load.longest)
    scheduler = Scheduler(config, per_token, lambda: None)
    room = sum(scheduler.slots_for(lane, max(1, capacity)) for lane in range(lane_count(config)))
    slots = min(room, load.sequences)
    seconds = load.prompt_tokens / speed.prompt_tokens + load.computed_tokens / speed.new_tokens
    return Plan(
        model=folder.manifest.name,
        requests=load.requests,
        slots=slots,
        capacity=capacity,
        kv_cache_bytes=slots * capacity * per_token,
        weights_bytes=folder.size_bytes,
        seconds_at_most=round(seconds, 1),
        speed=speed,
    )
