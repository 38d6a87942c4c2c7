"""What a job will take: slots, memory and time, as far as that can be told ahead.

Time is that of the lanes, each of which runs prompts and decode steps. A step costs something by
itself, for each of its rows, and for each token that a row attends to; a token of a prompt costs
about the same wherever it stands. What each of them costs here is measured by `aobatch bench`, or
by the last run, else it follows from the size of the model. How long completions become nobody
knows ahead: at each token they end with the same small probability, and for certain at max_tokens.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from aobatch.engine.config import EngineConfig
from aobatch.engine.prefill import family, shared_length
from aobatch.engine.scheduler import Scheduler, capacity_for, lane_count
from aobatch.engine.sequence import SequenceGroup
from aobatch.errors import AobatchError, JobError
from aobatch.files import cache_folder, write_whole
from aobatch.job.report.usage import UsageReport
from aobatch.kernels import Kernels
from aobatch.models.store.catalogue import resolve
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig, processor_name
from aobatch.runners.choice import choose_kernels

MIN_ROWS, MIN_PROMPT_TOKENS, MIN_SECONDS = 200, 400, 1.0
"""A job that drew or read fewer tokens, or was shorter, says nothing of their speed."""
MIN_STOPS = 5
"""So many completions have to end by themselves to say how often that is."""
MAX_FAMILIES = 512
"""Prompts that are remembered to see what others share with them."""


class Speed(msgspec.Struct, frozen=True):
    """What a lane's work on a model costs, in seconds."""

    step: float
    """A decode step, whatever its rows."""
    row: float
    """Each row of a step, with drawing its token."""
    cached_token: float
    """Each token that a row attends to."""
    prompt_token: float
    """Each token of a prompt."""
    start: float
    """Beside the lanes: the program, opening the model, publishing."""
    ending: float = 0.005
    """The probability that a completion ends by itself at a token."""
    source: Literal["run", "bench", "default"] = "default"
    """What it was measured by, or that it was not."""
    date: str = ""


_REFERENCES: dict[Kernels, Speed] = {
    "fused": Speed(10e-3, 0.74e-3, 3.3e-6, 0.9e-3, start=1.5),
    "stock": Speed(10e-3, 0.74e-3, 8.9e-6, 1.06e-3, start=1.5),
}
"""Of the default model by two lanes of a thread each on cores of Zen 4."""
_REFERENCE_BYTES, _REFERENCE_THREADS = 194e6, 2
"""The size of its folder, and the threads."""


def known_speed(folder: ModelFolder, runner: RunnerConfig) -> Speed:
    """Look up the last measured speed, else one that follows from the size of the model."""
    known = _read().get(_key(folder, runner))
    if known is not None:
        return known
    factor = folder.size_bytes / _REFERENCE_BYTES * _REFERENCE_THREADS / max(2, runner.threads)
    return scaled(_REFERENCES[choose_kernels(folder, runner).kernels], factor)


def scaled(speed: Speed, factor: float, prompt_factor: float | None = None) -> Speed:
    """Make decoding so many times as dear, and reading prompts too if nothing else is said."""
    return replace(
        speed,
        step=speed.step * factor,
        row=speed.row * factor,
        cached_token=speed.cached_token * factor,
        prompt_token=speed.prompt_token * (factor if prompt_factor is None else prompt_factor),
    )


def note_speed(folder: ModelFolder, runner: RunnerConfig, speed: Speed) -> None:
    """Keep a speed; nothing happens where the user's cache folder cannot be written."""
    speeds = _read() | {_key(folder, runner): speed}
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_path(), msgspec.json.format(msgspec.json.encode(speeds), indent=1) + b"\n")
    except (OSError, JobError):
        return


def note_run(report: UsageReport, runner: RunnerConfig, seconds_before: float) -> None:
    """Keep the speed of a job of one model; the seconds are those of the program ahead of it."""
    models = {model.fingerprint: model.name for model in report.job.models}
    if len(models) != 1:
        return
    (name,) = models.values()
    with suppress(AobatchError):  # the model's name may be that of a folder which moved
        folder = resolve(name)
        known = known_speed(folder, runner)
        speed = speed_of_run(report, known, seconds_before)
        if speed is not None:
            note_speed(folder, runner, speed)


def speed_of_run(report: UsageReport, known: Speed, seconds_before: float) -> Speed | None:
    """Correct a speed by what a job took; None if that tells nothing new.

    The parts of decoding keep their proportions: a single job does not tell them apart.
    """
    seen, usage = report.counted.engine, report.usage
    read, rows = seen.prefill_tokens, seen.decode_rows
    start = known.start
    if report.counted.runs == 1 and seen.prefill_seconds:
        start = seconds_before + report.counted.job_seconds - seen.run_seconds
    is_long = read >= MIN_PROMPT_TOKENS or rows >= MIN_ROWS
    if not is_long or seen.run_seconds < MIN_SECONDS or not seen.prefill_seconds:
        is_new = not known.start / 1.3 < start < known.start * 1.3
        return replace(known, start=start) if is_new else None
    others = seen.lane_seconds - seen.prefill_seconds
    factor = 1.0
    prompt_token = known.prompt_token
    if rows >= max(MIN_ROWS, read / 10):
        num_completed = max(1, report.requests.completed)
        context = (usage.prompt_tokens + usage.completion_tokens / 2) / num_completed
        expected = _decoding(known, seen.decode_steps, rows, rows * context)
        factor = others / expected
        if read >= MIN_PROMPT_TOKENS:
            prompt_token = seen.prefill_seconds / read
    else:
        # Drawing first tokens is then most of what is not reading.
        prompt_token = seen.lane_seconds / read
    num_stops = report.finish_reasons.get("stop", 0)
    return replace(
        scaled(known, factor, 1.0),
        prompt_token=prompt_token,
        start=start,
        ending=num_stops / usage.completion_tokens if num_stops >= MIN_STOPS else known.ending,
        source="run",
        date=time.strftime("%Y-%m-%d"),
    )


class DecodeStep(msgspec.Struct, frozen=True):
    """A measured decode step of a lane."""

    rows: int
    cached_tokens: int
    """Of each row."""
    seconds: float


def speed_of_steps(
    steps: Iterable[DecodeStep], prompt_token: float, drawing: float, start: float
) -> Speed:
    """Make a speed of measured steps; `drawing` is what a row costs outside of the model."""
    measured = [*steps]
    costs = np.array([[1, step.rows, step.rows * step.cached_tokens] for step in measured], float)
    seconds = np.array([step.seconds for step in measured])
    # Each step counts alike, however long it takes; no part costs less than nothing.
    parts = np.zeros(3)
    kept = [0, 1, 2]
    while kept:
        found = np.linalg.lstsq(costs[:, kept] / seconds[:, None], np.ones(len(seconds)))[0]
        if found.min() >= 0:
            parts[kept] = found
            break
        kept.pop(int(found.argmin()))
    step, row, cached_token = map(float, parts)
    return Speed(
        step,
        row + drawing,
        cached_token,
        prompt_token,
        start,
        source="bench",
        date=time.strftime("%Y-%m-%d"),
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


class Time(msgspec.Struct, frozen=True):
    """What a job is expected to take, in seconds."""

    start: float
    reading: float
    """Prompts."""
    writing: float
    """Completions."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.start + self.reading + self.writing


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
    seconds: float
    """About how long it takes."""
    time: Time
    """The parts of that."""
    speed: Speed
    """What the seconds are guessed from."""


class Kind(msgspec.Struct):
    """Sequences of a job that may have equally many tokens."""

    num_sequences: int = 0
    prompt_tokens: int = 0
    """In the prompts of all of them."""


class Workload(msgspec.Struct):
    """The tokens of one model's requests while they are added up."""

    requests: int = 0
    sequences: int = 0
    prompt_tokens: int = 0
    """Those to compute: what prompts share is computed once."""
    longest: int = 0
    """Tokens of the longest sequence with its prompt."""
    kinds: dict[tuple[int, bool], Kind] = {}
    """By how many tokens they may have, and whether they may end earlier."""
    families: dict[bytes, SequenceGroup] = {}
    """The latest prompts by their beginnings."""

    def add(self, group: SequenceGroup) -> None:
        """Add a prompt and its sequences, if it needs the model."""
        if not group.needs_model:
            return
        num_tokens, body = len(group.prompt_token_ids), group.body
        self.sequences += group.num_sequences
        self.prompt_tokens += num_tokens - self._num_shared(group)
        self.longest = max(self.longest, group.num_tokens_at_most)
        may_end = bool(not body.ignore_eos or body.stop or body.stop_token_ids)
        kind = self.kinds.setdefault((group.max_tokens, may_end), Kind())
        kind.num_sequences += group.num_sequences
        kind.prompt_tokens += group.num_sequences * num_tokens

    def _num_shared(self, group: SequenceGroup) -> int:
        name = family(group.prompt_token_ids)
        if name is None:
            return 0
        other = self.families.pop(name, None)
        self.families[name] = group
        if len(self.families) > MAX_FAMILIES:
            del self.families[next(iter(self.families))]
        return 0 if other is None else shared_length(group, other, least=1)


def plan_of(
    folder: ModelFolder, load: Workload, config: EngineConfig, runner: RunnerConfig, speed: Speed
) -> Plan:
    """Say what a model's requests take under a configuration."""
    per_token = folder.kv_bytes_per_token(choose_kernels(folder, runner).cache_dtype)
    capacity = capacity_for(load.longest)
    scheduler = Scheduler(config, per_token, lambda: None)
    room = sum(scheduler.slots_for(lane, max(1, capacity)) for lane in range(lane_count(config)))
    slots = min(room, load.sequences)
    expected = expected_time(load, slots, lane_count(config), speed)
    return Plan(
        model=folder.manifest.name,
        requests=load.requests,
        slots=slots,
        capacity=capacity,
        kv_cache_bytes=slots * capacity * per_token,
        weights_bytes=folder.size_bytes,
        seconds=round(expected.seconds, 1),
        time=expected,
        speed=speed,
    )


def expected_time(load: Workload, slots: int, num_lanes: int, speed: Speed) -> Time:
    """Guess how long a job takes."""
    lanes = max(1, min(num_lanes, load.sequences))
    rows = cached = 0.0
    for (most, may_end), kind in load.kinds.items():
        length = expected_length(most, speed.ending) if may_end else most
        # The prompt itself gives the first token.
        rows += kind.num_sequences * max(0.0, length - 1)
        cached += max(0.0, length - 1) * (kind.prompt_tokens + kind.num_sequences * length / 2)
    steps = max(expected_longest(load.kinds, speed.ending) - 1, rows / max(1, slots), 0.0)
    return Time(
        round(speed.start, 1),
        round(load.prompt_tokens * speed.prompt_token / lanes, 1),
        round(_decoding(speed, steps * lanes, rows, cached) / lanes, 1),
    )


def _decoding(speed: Speed, steps: float, rows: float, cached: float) -> float:
    """Add up the seconds of all lanes."""
    return steps * speed.step + rows * speed.row + cached * speed.cached_token


def expected_length(most: int, ending: float) -> float:
    """Give the mean length of a completion that may end at each of its tokens, and at `most`."""
    return most if ending == 0 else (1 - (1 - ending) ** most) / ending


def expected_longest(kinds: Mapping[tuple[int, bool], Kind], ending: float) -> float:
    """Give the mean length of the longest completion: how many steps somebody is still at work."""
    longest = max((most for most, _ in kinds), default=0)
    lengths = np.arange(longest)
    # The probability that nobody has more tokens than that.
    all_ended = np.ones(longest)
    survival = (1 - ending) ** lengths
    for (most, may_end), kind in kinds.items():
        alive = survival[:most] if may_end else 1.0
        all_ended[:most] *= (1 - alive) ** kind.num_sequences
    return float((1 - all_ended).sum())
