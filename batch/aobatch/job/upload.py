"""The files of a published job to the stores that its output names."""

import threading
from pathlib import Path

import msgspec

from aobatch.errors import InputMissingError
from aobatch.files import write_whole
from aobatch.formats import remote
from aobatch.formats.remote import Remote
from aobatch.job.config import JobConfig
from aobatch.job.source import digest_file
from aobatch.job.state import StateFolder


class Uploaded(msgspec.Struct, frozen=True):
    """What was uploaded, and what its store said of it then."""

    digest: str
    identity: str | None


def upload_files(config: JobConfig, state: StateFolder) -> None:
    """Upload the files of a published job whose stores do not have them; the output comes last."""
    known = _read(state.uploaded)
    for path, target in config.uploads:
        digest = digest_file(path)
        uploaded = known.get(str(target))
        if uploaded is None or uploaded != Uploaded(digest, _identify(target)):
            _upload(path, target)
            known[str(target)] = Uploaded(digest, _identify(target))
            write_whole(state.uploaded, msgspec.json.encode(known))


def check_uploads(config: JobConfig) -> None:
    """Refuse stores that could not take the files, before anything is computed for them."""
    for _, target in config.uploads:
        remote.check_writable(target)


def _upload(path: Path, target: Remote) -> None:
    """Upload a file in a thread of its own, so that a signal is heard meanwhile.

    A store shows an object when its stream is closed. A thread that is left behind closes it with
    all bytes, or dies with the process before: never with a part of them.
    """
    failures: list[Exception] = []

    def upload() -> None:
        try:
            remote.upload(path, target)
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=upload, name=f"upload of {path.name}", daemon=True)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def _identify(target: Remote) -> str | None:
    try:
        return remote.identify(target)
    except InputMissingError:
        return None


def _read(path: Path) -> dict[str, Uploaded]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Uploaded])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
