"""The command with the fake backend as a process of its own; the first argument is its pace."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "job"))

from click.testing import Result
from fakes import paced

from aobatch.cli import main, run
from aobatch.executors import local

Invoke = Callable[..., Result]
COMMAND = [sys.executable, __file__]

if __name__ == "__main__":
    pace = sys.argv.pop(1)
    run.open_backend = lambda _options, _stages: paced(pace)
    local.LocalBackend = lambda *_: paced(pace)
    main.main()
