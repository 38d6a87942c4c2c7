"""Fixtures of the runners' tests: the tiny models of each family are made by those of models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
