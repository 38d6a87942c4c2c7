"""What a job will take: slots, memory and time, as far as that can be told ahead."""

import msgspec

from aobatch.engine.config import EngineConfig
from aobatch.engine.scheduler import Scheduler, capacity_for, lane_count
from aobatch.job.speeds import Speed
from aobatch.models.store.folder import ModelFolder


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


def plan_of(folder: ModelFolder, load: Workload, config: EngineConfig, speed: Speed) -> Plan:
    """Say what a model's requests take under a configuration."""
    per_token = folder.manifest.kv_bytes_per_token // (4 if config.kv_cache_dtype == "int8" else 1)
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
