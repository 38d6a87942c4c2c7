"""Laws of the command on a terminal, ours or tmux: a bar that moves, Ctrl-C, a clean line."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_command import COMMAND
from terminal import Terminal

SENTENCE = "aobatch: stopped by SIGINT; what is done is kept, run again"
Opener = Callable[..., Terminal]
TMUX = shutil.which("tmux")


@pytest.fixture
def on_terminal(source: Path) -> Iterator[Opener]:
    """Give a function that runs the command on a terminal in the input's folder."""
    opened: list[Terminal] = []

    def run(delay: str, *arguments: str, **options: object) -> Terminal:
        command = [*COMMAND, delay, *arguments]
        opened.append(Terminal(command, source.parent, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.close()


def bars(frame: list[str]) -> list[str]:
    """Give the bars that a screen shows."""
    return [line for line in frame if re.match(r" *\d+%\|", line)]


def answered(terminal: Terminal) -> int:
    """Give how many lines the bar says are answered."""
    found = re.findall(r"(\d+)/400", "".join(bars(terminal.screen.lines())))
    return int(found[-1]) if found else 0


@pytest.mark.parametrize("columns", [40, pytest.param(80, marks=pytest.mark.long), 200])
def test_interrupted_bar_leaves_a_sentence_and_the_next_run_goes_on(
    on_terminal: Opener, source: Path, columns: int
) -> None:
    """The bar moves on one line, Ctrl-C takes it away, and the same command ends the job."""
    first = on_terminal("0.05", "run", "in.jsonl", columns=columns)
    first.watch(lambda terminal: answered(terminal) >= 6)
    seen = answered(first)
    first.watch(lambda terminal: answered(terminal) > seen)
    first.type("\x03")

    assert first.end() == -signal.SIGINT
    assert all(len(bars(frame)) <= 1 for frame in first.frames)
    assert "".join(first.screen.lines()) == SENTENCE
    assert (first.screen.column, first.screen.shows_cursor) == (0, True)
    assert (first.screen.unknown, first.screen.style) == ("", "")
    assert first.modes_now() == first.modes

    second = on_terminal("0.003", "run", "in.jsonl", columns=columns)
    second.watch(lambda terminal: answered(terminal) > 0)
    assert answered(second) >= seen
    assert second.end() == 0
    assert len(source.with_name("in.out.jsonl").read_bytes().splitlines()) == 400
    assert bars(second.screen.lines()) == []
    assert "report in in.out.jsonl.usage.json" in "".join(second.screen.lines())
    assert (second.screen.column, second.screen.unknown, second.screen.style) == (0, "", "")


@pytest.mark.parametrize(
    ("variables", "has_bar", "has_colour"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=str,
)
def test_terminals_that_want_less_get_less(
    on_terminal: Opener, variables: dict[str, str], has_bar: bool, has_colour: bool
) -> None:
    """A dumb terminal gets lines, one without colours a bar; no style stays behind."""
    terminal = on_terminal("0.001", "run", "in.jsonl", **variables)

    assert terminal.end() == 0
    assert any(map(bars, terminal.frames)) == has_bar
    assert (b"\x1b[2m" in terminal.raw) == has_colour
    if not has_bar:
        assert b"\x1b" not in terminal.raw
        assert terminal.raw.count(b"\r") == terminal.raw.count(b"\r\n")
    assert terminal.screen.style == ""


def test_logs_for_programs_are_lines_on_a_terminal_too(on_terminal: Opener) -> None:
    """Who asks for JSON gets nothing else, wherever it goes."""
    terminal = on_terminal("0.001", "run", "in.jsonl", "--log-format", "json", columns=2000)

    assert terminal.end() == 0
    events = [json.loads(line)["event"] for line in terminal.screen.lines() if line]
    assert events == ["start", "report", "finished"]


def test_warning_stands_above_the_bar(on_terminal: Opener, source: Path) -> None:
    """What goes wrong meanwhile is a line of its own that drives no terminal."""
    source.write_text('{"prompt":"raise now"}\n' * 2)
    terminal = on_terminal("0.001", "run", "in.jsonl", columns=200)

    assert terminal.end() == 1
    assert [line[:35] for line in terminal.screen.lines()][:1] == [
        "aobatch: the engine failed (ValueEr"
    ]
    assert terminal.screen.unknown == ""


@pytest.mark.parametrize("arguments", [["run"], ["run", "-o", "out.jsonl"], []], ids=str)
def test_nothing_to_do_is_no_wait_for_typing(on_terminal: Opener, arguments: list[str]) -> None:
    """Without an input the command says how it is used, and does not read the keyboard."""
    terminal = on_terminal("0", *arguments)

    assert terminal.end() == 2
    assert "Usage: aobatch" in "\n".join(terminal.screen.lines())


class Session:
    """A shell in tmux."""

    def __init__(self, socket: Path, columns: int) -> None:
        self._tmux = [str(TMUX), "-S", str(socket), "-f", "/dev/null"]
        shell = ["env", "PS1=> ", "TERM=screen", "NO_COLOR=1", "sh"]
        self.ask("new-session", "-d", "-x", str(columns), "-y", "20", *shell)

    def ask(self, *arguments: str) -> str:
        """Run a command of tmux; give what it prints."""
        command = [*self._tmux, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=300
        ).stdout

    def type(self, *keys: str) -> None:
        """Press keys."""
        self.ask("send-keys", *keys)

    def screen(self) -> str:
        """Give what is to be seen, long lines joined."""
        return self.ask("capture-pane", "-p", "-J")

    def wait(self, pattern: str) -> str:
        """Watch the screen until a pattern is to be seen; give it."""
        deadline = time.monotonic() + 300
        while (found := re.search(pattern, self.screen())) is None:
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.05)
        return found[0]


@pytest.fixture(params=[40, *(pytest.param(n, marks=pytest.mark.long) for n in (100, 200))])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    """Open a shell of some width."""
    session = Session(tmp_path / "tmux", request.param)
    yield session
    session.ask("kill-server")


@pytest.mark.skipif(
    TMUX is None and not os.environ.get("CI"), reason="tmux is not installed: apt install tmux"
)
def test_bar_moves_stops_and_goes_on(session: Session, source: Path) -> None:
    """Ctrl-C ends the bar with a sentence and code 130; the same command answers every line."""
    command = [*COMMAND, "{delay}", "run", str(source)]

    session.type(shlex.join(command).format(delay=0.05), "Enter")
    first = session.wait(r"\d+/400")
    session.wait(rf"(?!{first})\b[1-9]\d*/400")
    session.type("C-c")
    session.wait(SENTENCE)
    session.type("echo code $?", "Enter")
    session.wait(r"code 130\n")

    screen = session.screen()
    assert f"\n{SENTENCE}\n" in screen
    assert "/400" not in screen
    assert "^" not in screen
    assert session.ask("display-message", "-p", "#{cursor_flag}") == "1\n"

    session.type("clear", "Enter")
    session.type(shlex.join(command).format(delay=0.002), "Enter")
    session.wait(r"report in .*usage.json\n")
    session.type("echo code $?", "Enter")
    session.wait(r"code 0\n")

    assert "/400" not in session.screen()
    assert len(source.with_name("in.out.jsonl").read_bytes().splitlines()) == 400
