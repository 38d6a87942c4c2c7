"""The command with the fake backend as a process of its own; the first argument is its delay."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "job"))

from fakes import FakeBackend

from aobatch.cli import main, run
from aobatch.executors import local

if __name__ == "__main__":
    delay = float(sys.argv.pop(1))
    run.open_backend = lambda _options, _stages: FakeBackend(delay=delay)
    local.LocalBackend = lambda *_: FakeBackend(delay=delay)
    main.main()
