"""Laws of what is published: it has all that its own files need, and says truly what it needs."""

import re
import sys
import tarfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the source distribution, and name its files."""
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def needed() -> set[str]:
    """Name the files that make and images read."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"[\w./-]+\.(?:py|txt|jsonl|toml)", makefile)
    named = {name for name in found if ".out." not in name}  # which runs write
    for path in ROOT.glob("jobs/*/Dockerfile"):
        for line in re.findall(r"^COPY (?!.*--from)(.*)$", path.read_text(encoding="utf-8"), re.M):
            words = [word for word in line.split() if not word.startswith("--")]
            named |= set(words[:-1])
    return named


def test_the_source_distribution_has_what_it_needs(members: set[str]) -> None:
    """Its Makefile and Dockerfiles find their files."""
    folders = {f"{parent}" for name in members for parent in Path(name).parents}
    missing = {name for name in needed() if name not in members | folders}

    assert {"requirements.txt", "requirements-dev.txt", "batch", "models"} <= needed()
    assert missing == set()


def test_every_requirement_has_a_floor() -> None:
    """CI runs a job with exactly these versions, so that each is one that does."""
    from lowest_versions import builder, floors

    for line in [*floors(), *floors("metrics", "report", "serve", "remote"), *builder()]:
        assert re.fullmatch(r"[\w.-]+==\d+(\.\d+)*", line)
