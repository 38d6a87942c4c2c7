"""Models: found by name or path, fetched, converted, checked and described."""

from collections.abc import Callable
from typing import TypeAlias

PRECISIONS = ("int8", "nbits8", "fp32")
"""How weights can be kept."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""
