"""Laws of docs/faults.md: every row names tests that exist, and codes that error objects have."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from aobatch.errors import ErrorCode

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [row for row in TEXT.splitlines() if row.startswith("| ") and not row.startswith("| what ")]
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
CODES = frozenset(get_args(ErrorCode))
OF_THE_ENGINE = frozenset({"engine_crash", "insufficient_memory", "numerical_error"})
"""No line is to blame for them."""


@pytest.mark.parametrize(("path", "name"), sorted({*TESTS}))
def test_named_tests_exist(path: str, name: str) -> None:
    """Each test that proves a row is a function of the file that is named."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_row_names_a_test(row: str) -> None:
    """A row without a test would be a hope; a test that is named in another form is not found."""
    proof = row.rstrip("|").split(" | ")[-1]

    assert re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", proof)
    assert proof.count("::") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", proof))


def test_every_code_has_a_row() -> None:
    """What a line can be blamed for stands in the table, and the table has no other codes."""
    section = TEXT.split("## Bad lines\n")[1].split("\n## ")[0]
    found = {code for row in section.splitlines() for code in re.findall(r"`([a-z0-9_]+)`", row)}

    assert found & CODES == CODES - OF_THE_ENGINE
    looks_like_code = re.compile(r"(invalid|empty|duplicate|integer|decimal|array|string)_\w+")
    assert {name for name in found if looks_like_code.fullmatch(name)} <= CODES
