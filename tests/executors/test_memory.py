"""Laws of the memory that is taken as free."""

from pathlib import Path

import pytest

from aobatch.executors import local as memory


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    """Let the system's files say what is given; those left out do not exist."""
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", folder / "meminfo")
    monkeypatch.setattr(memory, "GROUP_LIMITS", ((folder / "limit", folder / "used"),))


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5000", 1024_000), ("9000000", "8500000", 500_000), ("100", "200", 0)],
)
def test_the_smaller_of_system_and_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, expected: int
) -> None:
    """Within a container, what its limit leaves is all there is."""
    meminfo = "MemTotal: 9999 kB\nMemAvailable:   1000 kB\n"
    pretend(monkeypatch, tmp_path, meminfo=meminfo, limit=limit, used=used)

    assert memory.available_memory() == expected


def test_memory_is_known_where_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the system's files it is half of what the machine has."""
    pretend(monkeypatch, tmp_path)

    assert memory.available_memory() > 100_000_000
