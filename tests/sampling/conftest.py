"""Make the slow reference importable, and share what several files of tests use."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def warpers() -> dict[str, NDArray[np.generic]]:
    """Give logits [16, 1003] and what transformers' logits processors make of them."""
    with np.load(DATA / "warpers.npz") as arrays:
        return dict(arrays)
