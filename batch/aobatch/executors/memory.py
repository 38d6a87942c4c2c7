"""How much memory this process may still take."""

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of the control group that a container sees as its own, version 2 and 1."""
UNLIMITED = 2**60


def default_kv_cache_bytes() -> int:
    """Give what keys and values may take where nobody says: half of what is free."""
    return available_memory() // 2


def available_memory() -> int:
    """Give the bytes that can be taken without pushing others out, within a container's limit."""
    free = _system_memory()
    for bound, taken in _group_limits():
        free = min(free, max(0, bound - taken))
    return free


def container_limit() -> int | None:
    """Give the bytes that a container allows its processes together; None without a limit."""
    return min((bound for bound, _ in _group_limits()), default=None)


def _group_limits() -> Iterator[tuple[int, int]]:
    for limit, used in GROUP_LIMITS:
        bound, taken = _number(limit), _number(used)
        # Version 1 writes a limit beyond all memory where there is none.
        if bound is not None and taken is not None and bound < UNLIMITED:
            yield bound, taken


def _system_memory() -> int:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _number(path: Path) -> int | None:
    """Read a number; None if the file is not there or says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
