"""The licence that a folder states: in the heading of its README, or by a file of terms."""

import re
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.checks import printable
from aobatch.models.checks.files import open_regular

UNKNOWN = "unknown"
_README = "README.md"
_MAX_BYTES = 64 * 2**10
_MAX_LENGTH = 100
_OTHER = "other"
_HEADING = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.M | re.S)
_FIELD = re.compile(r"^(license|license_name):[ \t]*(.*?)[ \t]*$", re.M)
_ITEMS = re.compile(r"^license:[ \t]*\n((?:[ \t]*-[ \t]+.*\n?)+)", re.M)
_FILE = re.compile(r"(licen[sc]e|copying|notice)([.-].*)?|use_policy\.md", re.I)


def read_licence(folder: Path) -> str:
    """Give the name of the licence, the file that has its text, or `unknown`."""
    return _stated(_heading(folder / _README)) or _file(folder) or UNKNOWN


def _heading(path: Path) -> str:
    """Give what stands between the first two lines of dashes; empty if there is no such part."""
    try:
        with open_regular(path, follows_links=True) as (file, _):
            text = file.read(_MAX_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except (ModelError, OSError):
        return ""
    found = _HEADING.match(text.removeprefix("\ufeff"))
    return found[1] if found else ""


def _stated(heading: str) -> str:
    fields = {name: value.strip("\"'") for name, value in _FIELD.findall(heading)}
    licence = fields.get("license", "")
    if licence == _OTHER:
        licence = fields.get("license_name") or ""
    if not licence and (items := _ITEMS.search(heading)):
        licence = ", ".join(item.strip(" \t-\"'") for item in items[1].splitlines())
    licence = licence.strip("[] ")
    return printable(licence) if len(licence) <= _MAX_LENGTH else ""


def _file(folder: Path) -> str:
    """Name the file of terms that a folder has; the shortest name of several."""
    names = [path.name for path in folder.iterdir() if _FILE.fullmatch(path.name)]
    names.sort(key=lambda name: (not name.lower().startswith("licen"), len(name), name))
    return f"see {printable(names[0])}" if names else ""
