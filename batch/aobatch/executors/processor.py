"""What this machine's processor is, as the system says."""

import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

RELEVANT_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)
"""Those that make 8-bit products fast, of x86 and of Arm."""


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor_name() -> str:
    """Name the processor."""
    fields = _fields()
    return fields.get("model name") or platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Give the relevant features that it has."""
    fields = _fields()
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return [name for name in RELEVANT_FEATURES if name in flags]


@cache
def _fields() -> dict[str, str]:
    try:
        first, _, _ = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
