"""Names for the arrays that cross module borders; a leading dimension is always the batch."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenIds: TypeAlias = NDArray[np.int64]
"""Token ids, [B] or [N]."""

Logits: TypeAlias = NDArray[np.float32]
"""Raw scores over the vocabulary, [B, V]; C-contiguous."""

Floats: TypeAlias = NDArray[np.float64]
"""Probabilities and logprobs, natural logarithm."""
