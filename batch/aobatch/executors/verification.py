"""Whether a converted model is what it was, runs, and is as close to fp32 as it says."""

import os
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.executors.local import open_runner
from aobatch.executors.quality_check import check_quality
from aobatch.models.foreign import open_export
from aobatch.models.spec import Progress
from aobatch.models.store.folder import MANIFEST, CacheDtype, ModelFolder, has_file, read_folder
from aobatch.models.verification import Check, check_files
from aobatch.runners.probes import self_test

_AGAIN = "convert or import the model again"


class Verification(msgspec.Struct, frozen=True):
    """All that was looked at."""

    name: str
    path: str
    is_right: bool
    """Whether nothing failed; what could not be checked is no failure."""
    checks: list[Check]


def verify(path: Path, progress: Progress) -> Verification:
    """Look at a model folder from its files to its quality; ModelError if it is none.

    Of an exported graph nobody knows what it was; whether it runs rightly can be seen.
    """
    if not has_file(path, MANIFEST):
        return _verify_export(open_export(path))
    folder = read_folder(path)
    checks = list(check_files(path))
    checks += [_self_test(folder, cache) for cache in _caches(folder)]
    if _is_right(checks):
        checks += check_quality(folder, progress)
    else:
        found = "not measured, for something is wrong already"
        checks.append(Check("quality", "not checked", found, _AGAIN))
    return Verification(folder.manifest.name, str(folder.path), _is_right(checks), checks)


def _verify_export(folder: ModelFolder) -> Verification:
    found = "an export has no record of what it was, and nothing to be compared with"
    checks = [Check("files and quality", "not checked", found), _self_test(folder, "fp32")]
    return Verification(folder.manifest.name, str(folder.path), _is_right(checks), checks)


def _is_right(checks: list[Check]) -> bool:
    return all(check.state != "failed" for check in checks)


def _caches(folder: ModelFolder) -> tuple[CacheDtype, ...]:
    return ("fp32", "int8") if folder.manifest.int8_cache.digest else ("fp32",)


def _self_test(folder: ModelFolder, cache: CacheDtype) -> Check:
    name = "self-test" if cache == "fp32" else "self-test, int8 cache"
    try:
        wrong, compared = self_test(open_runner(folder, cache, os.cpu_count() or 1))
    except ModelError as error:
        return Check(name, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - the library raises half a dozen unrelated types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, "failed", f"it cannot be computed: {lines[0][:200]}", _AGAIN)
    if wrong:
        return Check(name, "failed", wrong, _AGAIN)
    return Check(name, "ok", f"alone as in a batch, to the bit: {compared}")
