"""Runners compute logits: how they are configured, and the protocol by which the engine knows them.

The processor that they run on has its name here, too.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from aobatch.kernels import CacheDtype

if TYPE_CHECKING:  # a finished job is configured without loading numpy
    from aobatch.arrays import Logits, TokenIds


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How a model is computed, whatever asks for it."""

    threads: int = field(default_factory=num_cores)
    """Of all lanes together; results do not depend on it."""
    kernels: Literal["auto", "fused", "stock"] = "auto"
    """Shapes results: fused operators where they can be had, always, or never."""
    kv_cache_dtype: CacheDtype | None = None
    """Shapes results: how keys and values are kept; int8 with fused operators, else fp32."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that one slot is to take in: the next ones of its sequence, `min_chunk` at least."""

    slot: int
    start: int
    """How many tokens the slot holds already."""
    token_ids: "TokenIds"
    num_logits: int
    """Of how many of the last positions the logits are wanted."""


class ModelRunner(Protocol):
    """Next-token logits for sequences that live in numbered slots.

    A slot's logits depend on its own tokens alone, bit by bit. The arrays that come back belong to
    the runner and hold until its next call; the caller may write into them.
    """

    vocab_size: int
    kv_bytes_per_token: int
    min_chunk: int
    """Tokens of the smallest chunk behind others: 2 where one alone takes another kernel."""

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks not too small."""
        ...

    @property
    def seconds_in_run(self) -> float:
        """How long the present run of the model takes, 0 outside of one; any thread may ask."""
        ...

    def sibling(self) -> "ModelRunner":
        """Give a runner with slots of its own over the same weights, for another thread."""
        ...

    def interrupted(self) -> AbstractContextManager[None]:
        """Let runs of this runner and its siblings, in other threads, fail while the block lasts.

        What is at work ends soon and raises; the slots are lost.
        """
        ...

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        ...

    def prefill(self, chunks: Sequence[Chunk]) -> "Logits":
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        ...

    def decode(self, token_ids: "TokenIds", lengths: "TokenIds") -> "Logits":
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot target the first `length` tokens of slot source."""
        ...


def session_threads(threads: int, num_lanes: int) -> int:
    """Say how many threads a session may use, the caller's own included.

    Each lane is a thread itself; what is left helps all of them inside their runs.
    """
    return threads - num_lanes + 1


_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
_ARM = ("asimddp", "i8mm")


def processor_name() -> str:
    """Name the processor."""
    return _processor().get("model name") or platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """List what the processor has that makes 8-bit products fast."""
    flags = f"{_processor().get('flags', '')} {_processor().get('Features', '')}".split()
    return [name for name in _X86 + _ARM if name in flags]


@cache
def _processor() -> dict[str, str]:
    try:
        first, _, _ = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
