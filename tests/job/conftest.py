"""Fixtures of the job tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "api"))


@pytest.fixture(autouse=True)
def _fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every job the same start, so that outputs can be compared byte by byte."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
