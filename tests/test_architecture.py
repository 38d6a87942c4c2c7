"""Laws of the code itself: small files and functions, one sentence for each module."""

import ast
from pathlib import Path

import pytest

import aobatch

PACKAGE = Path(aobatch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    """Parse a file of the package."""
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path: Path) -> None:
    """A file has at most 250 lines, a function at most 40."""
    functions = [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}

    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
    assert {name: lines for name, lines in long.items() if lines > 40} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """A module begins with a docstring whose first line is a sentence."""
    docstring = ast.get_docstring(tree(path))

    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", ","))


def test_only_the_command_line_talks_to_people() -> None:
    """Nothing prints, and click's echo stays in cli."""
    callers = [
        path
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        in ("print", "echo")
    ]

    assert {"cli"} == {path.parent.name for path in callers}


def test_public_names_are_few_and_real() -> None:
    """`aobatch.__all__` is sorted, short, and every name in it can be imported."""
    assert sorted(aobatch.__all__) == list(aobatch.__all__)
    assert len(aobatch.__all__) <= 10
    assert all(hasattr(aobatch, name) for name in aobatch.__all__)
