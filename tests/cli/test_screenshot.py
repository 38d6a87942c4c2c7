"""Laws of docs/run.svg: a picture of a terminal that has its text and loads nothing."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from terminal import Screen

sys.path.insert(0, str(Path(__file__).parents[1]))

from screenshot import draw

ROOT = Path(__file__).parents[2]


def words(picture: str) -> list[str]:
    """Give all words of a picture in the order in which they stand there."""
    return " ".join(ET.fromstring(picture).itertext()).split()


def test_picture_has_every_word_of_the_screen() -> None:
    """Characters that mean something in XML, too, and styles do not cut words."""
    screen = Screen(40)
    screen.feed("\x1b[2mmodel  <a> & b\x1b[0m\r\n\r\n\x1b[1mall\x1b[0m 50%|█▌  | 1/2")

    picture = draw([("Caption", screen.rows)])

    expected = "Caption $ aobatch run jobs/poems.jsonl model <a> & b all 50%|█▌ | 1/2"
    assert " ".join(words(picture)).endswith(expected)
    assert picture.count("font-weight:bold") == 1


def test_picture_of_the_documents_is_whole() -> None:
    """It shows the job's report, fits its frame, and names nothing outside of itself."""
    text = (ROOT / "docs/run.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    width = float(root.attrib["width"])
    ends = [
        float(node.attrib["x"]) + float(node.attrib.get("textLength", 0))
        for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]

    assert "smollm2-135m-instruct" in words(text)
    assert re.search(r"\b\d/17|1\d/17", " ".join(words(text)))
    assert max(ends) < width
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
