"""Laws of docs/conventions.md: thirty rows, each decided, and no option that does not exist."""

import re
from pathlib import Path

import click
import pytest

from aobatch.cli.main import aobatch
from aobatch.cli.settings import leaves

TEXT = (Path(__file__).parents[1] / "docs/conventions.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (yes|no) \| (.+) \|$", TEXT, re.M)
REFUSED = re.findall(r"No `(-[\w-]+)`", TEXT)


def options() -> set[str]:
    """Give the options of all commands, and those of the program itself."""
    root = click.Context(aobatch, info_name="aobatch", **aobatch.context_settings)
    found = [leaf.command.get_params(leaf) for leaf in leaves(root)]
    parameters = [*aobatch.get_params(root), *(p for params in found for p in params)]
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts)}


def test_there_are_thirty_rows() -> None:
    """They are numbered, and each says how, or why not."""
    assert [int(number) for number, *_ in ROWS] == list(range(1, 31))
    assert all(len(how) > 15 for *_, how in ROWS)


def test_options_of_the_page_exist() -> None:
    """Whatever option it shows is one, but for those that it says there are none of."""
    rows = "".join(how for *_, how in ROWS)
    shown = set(
        re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", " ".join(re.findall(r"`([^`]+)`", rows)))
    )

    assert shown - options() == set(REFUSED)
    assert len(shown) > 25


@pytest.mark.parametrize("name", sorted(set(REFUSED)))
def test_refused_options_do_not_exist(name: str) -> None:
    """A page that says no is right about it."""
    assert name not in options()
