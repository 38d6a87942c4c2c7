"""Laws of the command in tmux, a terminal that is not ours."""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_command import COMMAND

TMUX = shutil.which("tmux")
SENTENCE = "aobatch: stopped by SIGINT; what is done is kept, run again"

pytestmark = pytest.mark.skipif(
    TMUX is None and not os.environ.get("CI"), reason="tmux is not installed: apt install tmux"
)


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
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout

    def type(self, *keys: str) -> None:
        """Press keys."""
        self.ask("send-keys", *keys)

    def screen(self) -> str:
        """Give what is to be seen, long lines joined."""
        return self.ask("capture-pane", "-p", "-J")

    def wait(self, pattern: str) -> str:
        """Watch the screen until a pattern is to be seen; give it."""
        deadline = time.monotonic() + 30
        while (found := re.search(pattern, self.screen())) is None:
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.02)
        return found[0]


@pytest.fixture(params=[40, 100, 200])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    """Open a shell of some width."""
    session = Session(tmp_path / "tmux", request.param)
    yield session
    session.ask("kill-server")


def test_bar_moves_stops_and_goes_on(session: Session, source: Path) -> None:
    """Ctrl-C ends the bar with a sentence and code 130; the same command answers every line."""
    command = [*COMMAND, "{delay}", "run", str(source)]

    session.type(shlex.join(command).format(delay=0.02), "Enter")
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
