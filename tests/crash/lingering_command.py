"""The command, leaving a process behind that outlives it: lingering_command.py LOG run ..."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "job"))

from fakes import FakeBackend

from aobatch.cli import main, run
from aobatch.executors import Executor, ModelIdentity


class LingeringBackend(FakeBackend):
    """A slow backend that starts a process which inherits whatever it can."""

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Start the process and note its number."""
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
        with self.log.open("w") as log:
            log.write(f"{child.pid}\n")
        with super().open(model) as executor:
            yield executor


if __name__ == "__main__":
    backend = LingeringBackend(delay=1, log=Path(sys.argv.pop(1)))
    run.open_backend = lambda *_: backend
    main.main()
