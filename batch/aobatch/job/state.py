"""The folder beside an output that keeps the state of its job."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aobatch.files import hold_lock, storage_errors, sync_folder
from aobatch.job.config import STREAM, JobConfig, default_output, local_path


class StateFolder:
    """The files of a state folder; the run that holds its lock owns them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.sqlite3"
        """The results of the job, also when it is finished, so that a longer input keeps them."""
        self.lock = path / "lock"
        self.events = path / "events"
        """What streamed requests sent, a file each."""
        self.in_flight = path / "in-flight"
        """The requests that a run has taken up."""
        self.finished = path / "done.json"
        """What a finished job was, so that running it again does nothing."""
        self.uploaded = path / "uploaded.json"
        """What a finished job has uploaded."""

    def copy(self, name: str) -> Path:
        """Name the copy of an input that can be read only once, or is far away."""
        return self.path / f"input-{name}"

    def reopen_job(self) -> None:
        """Discard what is known of the end of an earlier job, and keep its results."""
        self._drop(self.finished)

    def forget_job(self) -> None:
        """Discard the results of an earlier job and what is known of its end."""
        # What is known of its end last: while it is there, the next run goes on discarding.
        ledger = [self.ledger.with_name(self.ledger.name + end) for end in ("-wal", "-shm", "")]
        self._drop(*self.events.glob("*"), *ledger, self.in_flight, self.finished)

    def drop_copies(self) -> None:
        """Discard the copies of inputs, which a finished job no longer needs."""
        self._drop(*self.path.glob("input-*"))

    def _drop(self, *paths: Path) -> None:
        """Remove files for good, in this order."""
        with storage_errors(self.path):
            for path in paths:
                path.unlink(missing_ok=True)
            sync_folder(self.path)


def state_path(config: JobConfig) -> Path:
    """Name the state folder of a job."""
    if config.output == STREAM:
        output = default_output(config.inputs[0], config.selection.shard)
        return local_path(output, None).with_suffix(".stdout.aobatch")
    return config.output.with_name(f"{config.output.name}.aobatch")


@contextmanager
def open_state(config: JobConfig) -> Iterator[StateFolder]:
    """Own the state folder of a job while the block runs; BusyError if another run does."""
    if config.output == STREAM and STREAM in config.inputs:
        with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
            yield StateFolder(Path(folder))
        return
    state = StateFolder(state_path(config))
    with storage_errors(state.path):
        if config.output == STREAM:
            state.path.parent.mkdir(parents=True, exist_ok=True)
        state.path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(state.path.parent)
    with hold_lock(state.lock):
        yield state
        if config.output == STREAM:
            shutil.rmtree(state.path)
