"""Laws of what the user's cache folder holds."""

import re
from pathlib import Path

import aobatch

PACKAGE = Path(aobatch.__file__).parent
REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"


def test_all_that_is_kept_in_the_cache_is_documented() -> None:
    """The reference names each file and folder that the code keeps there."""
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    kept = re.findall(r'cache_folder\(\) / "([^"]+)"', code)
    (about,) = re.findall(
        r"In the user's cache .*?\n\n|In the user's cache .*", REFERENCE.read_text(), re.S
    )

    assert len(kept) >= 4
    assert {name for name in kept if f"`{name}" not in about} == set()
