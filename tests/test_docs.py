"""Laws of the documents: links hold, tables are the code's, commands and targets exist."""

import re
import sys
from pathlib import Path

import pytest

from aobatch.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.append(str(Path(__file__).parent))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    """Every relative link of a document names a file of the repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_reference_is_that_of_the_code() -> None:
    """Commands, options, parameters and exit codes are listed as the code has them: `make docs`."""
    from docs_tables import PATH, reference

    assert reference() == PATH.read_text(encoding="utf-8")


def test_the_page_of_models_is_that_of_the_code() -> None:
    """Families, their files and operators, and layouts of infill are listed as the code has them.

    The measured numbers are those of the last `python tests/models_table.py`.
    """
    from models_table import PATH, page, read_figures

    assert page(read_figures()) == PATH.read_text(encoding="utf-8")


def test_tables_of_the_usage_report_are_those_of_the_code() -> None:
    """Every part of a report, of a summary and of the statistics is written down."""
    from report_tables import report_table, statistics_table, summary_table

    text = (ROOT / "docs/usage-report.md").read_text(encoding="utf-8")
    assert report_table() in text
    assert summary_table() in text
    assert statistics_table() in text


def test_the_first_example_is_a_line_of_the_job() -> None:
    """The input line that the README shows stands in the job that `make run` runs."""
    example = README.split("```json\n")[1].split("\n```")[0]

    assert example in (ROOT / "jobs/poems.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_documented(command: str) -> None:
    """Every command stands in the README."""
    assert f"`aobatch {command}" in README


def test_make_targets_of_the_readme_exist() -> None:
    """Every target that a document names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", text))

    assert {"run", "test"} <= named
    assert set() == {name for name in named if f"\n{name}:" not in makefile}


def test_the_architecture_fits_on_a_page() -> None:
    """ARCHITECTURE.md has at most 80 lines and names every folder of the package."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = [path.name for path in (ROOT / "batch/aobatch").iterdir() if path.is_dir()]

    assert len(text.splitlines()) <= 80
    assert [name for name in folders if name != "__pycache__" and f"{name}/" not in text] == []
