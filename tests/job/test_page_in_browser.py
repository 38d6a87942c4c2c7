"""Laws of the page in a real browser, at the width of a phone and of a desk, light and dark.

Left out unless asked for: `pytest -m browser`, where Chromium is installed.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_files import full_report

from aobatch.job.report.page import report_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
FRAME = """<!doctype html><body style="margin:0"><iframe src="report.html" style="border:0"
 width="{width}" height="900"></iframe><pre></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll("svg, table, .card, .tiles > div")].map(
    (box) => box.getBoundingClientRect());
  const cut = [...page.querySelectorAll(".card, td, th")].filter(
    (box) => box.scrollWidth > box.clientWidth + 1).length;
  const sizes = [...page.querySelectorAll("svg text")].map(
    (text) => text.getBoundingClientRect().height);
  document.querySelector("pre").textContent = [
    page.documentElement.scrollWidth, cut, Math.max(...boxes.map((box) => box.right)),
    Math.min(...boxes.map((box) => Math.min(box.width, box.height))),
    Math.min(...sizes), getComputedStyle(page.body).backgroundColor,
  ].join("|");
}};
</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a page."""
    report = full_report("organisation-of-long-names/a-model-of-40")
    (tmp_path / "report.html").write_bytes(report_page(report, "out.jsonl"))
    return tmp_path


def browse(folder: Path, name: str, *flags: str) -> str:
    """Open a file in the browser; give what it printed."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags]
    return subprocess.run(
        [*command, (folder / name).as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout


@pytest.mark.parametrize("width", [360, 390, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits(folder: Path, width: int, scheme: str) -> None:
    """Nothing reaches over the edge, nothing is empty, text can be read, colours follow."""
    (folder / "frame.html").write_text(FRAME.format(width=width))
    setting = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    flags = ["--allow-file-access-from-files", "--window-size=1400,1000", "--dump-dom"]
    found = re.search(r"<pre>([^<]+)</pre>", browse(folder, "frame.html", setting, *flags))

    assert found is not None
    scroll_width, cut, right, smallest, text_height, background = found[1].split("|")
    assert float(scroll_width) <= width
    assert float(right) <= width
    assert int(cut) == 0
    assert float(smallest) > 30
    assert float(text_height) >= 9
    red = int(re.findall(r"\d+", background)[0])
    assert (red < 60) == (scheme == "dark")


def test_page_loads_nothing_and_is_drawn(folder: Path) -> None:
    """A picture of the page can be taken with no network at all."""
    picture = folder / "page.png"
    flags = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--screenshot={picture}"]
    browse(folder, "report.html", "--window-size=1200,1800", *flags)

    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000
