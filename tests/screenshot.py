"""Draw docs/run.svg: what `aobatch run jobs/poems.jsonl` shows while it runs and in the end.

`make screenshot` runs it, on the default model, in a terminal of its own.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "cli"))

from terminal import Screen, Terminal

ROOT = Path(__file__).parents[1]
COLUMNS = 84
CELL, LINE, EDGE = 8.4, 19, 18
PROMPT = "$ aobatch run jobs/poems.jsonl"
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
FILLS = {"2": "#8b949e", "31": "#ff7b72"}
Row = list[tuple[str, str]]


def record(folder: Path) -> tuple[list[Row], list[Row]]:
    """Run the job; give the rows with the bar half way, and those of the end."""
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("*.out.*"))
    terminal = Terminal([sys.executable, "-m", "aobatch", *PROMPT.split()[2:]], folder, COLUMNS)
    try:
        terminal.watch(lambda t: "tokens=" in t.screen.lines()[0] and _share(t.screen) >= 50)
        middle = [list(row) for row in terminal.screen.rows]
        if terminal.end():
            sys.exit("\n".join(terminal.screen.lines()))
        return middle, list(terminal.screen.rows)
    finally:
        terminal.close()


def _share(screen: Screen) -> int:
    return int(screen.lines()[0].partition("%")[0])


def draw(panels: list[tuple[str, list[Row]]]) -> str:
    """Draw windows one below the other, each with a caption above it."""
    width = EDGE * 2 + COLUMNS * CELL
    body, top = [], 0.0
    for caption, rows in panels:
        while rows and not rows[-1]:
            rows.pop()
        height = EDGE * 1.7 + LINE * (len(rows) + 1)
        body.append(f'<text class="caption" x="2" y="{top + 15:.0f}">{escape(caption)}</text>')
        top += 24
        body.append(f'<rect y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8"/>')
        command: Row = [(char, "") for char in PROMPT]
        for number, row in enumerate([command, *rows]):
            y = top + EDGE + LINE * (number + 0.55)
            body += [_text(x, y, text, style) for x, text, style in _runs(row)]
        top += height + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {top:.0f}" '
        f'width="{width:.0f}" height="{top:.0f}" role="img" aria-label="aobatch run">\n'
        f"<style>text{{font:14px {FONT};fill:#e6edf3;white-space:pre}}"
        "rect{fill:#0d1117}.caption{font:13px system-ui,sans-serif;fill:#7d8590}</style>\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _runs(row: Row) -> Iterator[tuple[float, str, str]]:
    """Give places, texts and styles; a run ends where cells are empty, or the style changes."""
    cells = [(column, *cell) for column, cell in enumerate(row)]
    for (style, is_space), group in groupby(cells, lambda c: (c[2], c[1] == " ")):
        run = list(group)
        if not is_space:
            yield EDGE + run[0][0] * CELL, "".join(char for _, char, _ in run), style


def _text(x: float, y: float, text: str, style: str) -> str:
    codes = style.split(";")
    rules = [f"fill:{FILLS[code]}" for code in codes if code in FILLS]
    rules += ["font-weight:bold"] if "1" in codes else []
    look = f' style="{";".join(rules)}"' if rules else ""
    size = f'textLength="{len(text) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {size}{look}>{escape(text)}</text>'


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        middle, end = record(Path(folder))
    panels = [("While it runs", middle), ("When it is done", end)]
    (ROOT / "docs/run.svg").write_text(draw(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
