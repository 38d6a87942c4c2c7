"""The folder in which a job keeps what it must not lose."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aobatch.errors import OutputError, UsageError
from aobatch.files import check_name, hold_lock, replacing, storage_errors, sync_folder
from aobatch.formats import find_format
from aobatch.formats.compression import exists
from aobatch.job.config import STREAM, JobConfig, default_output, local_path
from aobatch.job.report import report_path


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The files of a state folder; the run that holds its lock owns them."""

    path: Path

    @property
    def ledger(self) -> Path:
        """The results of the job, also when it is finished, so that a longer input keeps them."""
        return self.path / "ledger.sqlite3"

    @property
    def lock(self) -> Path:
        """What the run that owns the folder has locked."""
        return self.path / "lock"

    @property
    def in_flight(self) -> Path:
        """The requests that a run has taken up."""
        return self.path / "in-flight"

    @property
    def marker(self) -> Path:
        """What a finished job was, so that running it again does nothing."""
        return self.path / "done.json"

    @property
    def uploaded(self) -> Path:
        """What a finished job has uploaded."""
        return self.path / "uploaded.json"

    def spool(self, stream_format: str) -> Path:
        """Name the file that keeps standard input, so that it can be read twice."""
        return self.path / f"stdin.{stream_format}"

    def reopen_job(self) -> None:
        """Discard what is known of the end of an earlier job, and keep its results."""
        self._drop(self.marker)

    def forget_job(self) -> None:
        """Discard the results of an earlier job and what is known of its end."""
        # The marker last: while it is there, the next run goes on discarding.
        ledger = [self.ledger.with_name(self.ledger.name + end) for end in ("-wal", "-shm", "")]
        self._drop(*ledger, self.in_flight, self.marker)

    def drop_spool(self) -> None:
        """Discard what a finished job no longer needs."""
        self._drop(*self.path.glob("stdin.*"))

    def _drop(self, *paths: Path) -> None:
        """Remove files for good, in this order."""
        with storage_errors(self.path):
            for path in paths:
                path.unlink(missing_ok=True)
            sync_folder(self.path)


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


def check_output(config: JobConfig) -> None:
    """Refuse an output that could not be published, before anything is computed for it."""
    output = config.output
    if output != STREAM:
        _check_file(output, config, "output")
        check_name(report_path(output))
    elif sys.stdout is None:
        message = "standard output is closed; name a file with --output"
        raise OutputError(message)
    elif sys.stdout.isatty() and not config.is_text:
        message = f"{config.stream_format} is nothing for a terminal; redirect it to a file or pipe"
        raise UsageError(message)
    if config.errors is not None:
        _check_file(config.errors, config, "errors")
        if config.errors == output:
            message = f"errors {output} is also the output; name another file with --errors"
            raise UsageError(message)


def _check_file(path: Path, config: JobConfig, role: str) -> None:
    find_format(path)
    with storage_errors(path):
        is_there = exists(path)
    if is_there and not path.is_file():
        message = f"{role} {path} is not a regular file; name a file"
        raise OutputError(message)
    if not path.parent.is_dir():
        message = f"folder {path.parent} of the {role} does not exist; create it"
        raise OutputError(message)
    inputs = [source for source in config.inputs if isinstance(source, Path)]
    if is_there and any(source.exists() and path.samefile(source) for source in inputs):
        message = f"{role} {path} is also an input; name another file with --{role}"
        raise UsageError(message)


def spool_standard_input(path: Path) -> None:
    """Keep standard input as a file."""
    with replacing(path) as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)


def state_path(config: JobConfig) -> Path:
    """Name the state folder of a job."""
    if config.output == STREAM:
        output = default_output(config.inputs[0], config.selection.shard)
        return local_path(output, None).with_suffix(".stdout.aobatch")
    return config.output.with_name(f"{config.output.name}.aobatch")
