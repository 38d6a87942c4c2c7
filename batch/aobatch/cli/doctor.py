"""Whether this machine can run jobs, and what it would run them with."""

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import msgspec

from aobatch.cli.command import command, exit_codes, settings_file
from aobatch.cli.console import show_json, show_table
from aobatch.cli.options import JsonOption
from aobatch.cli.settings import find_settings
from aobatch.errors import AobatchError
from aobatch.executors.local import available_memory, container_limit
from aobatch.models.store.catalogue import ModelRow, list_models, models_home
from aobatch.runners import num_cores, processor_features, processor_name

PACKAGES = ("onnxruntime", "tokenizers", "pyarrow", "numpy", "msgspec", "click")


def package_versions() -> dict[str, str | None]:
    """Give the version of aobatch and of what it runs on, None for what is missing."""
    versions: dict[str, str | None] = dict.fromkeys(("aobatch", *PACKAGES))
    for name in versions:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def version_line() -> str:
    """Give the most important ones in a line."""
    found = package_versions()
    names = ("onnxruntime", "tokenizers", "pyarrow")
    parts = [f"{name} {found[name] or '(not installed)'}" for name in names]
    return f"aobatch {found['aobatch']} (Python {platform.python_version()}, {', '.join(parts)})"


def version_facts() -> dict[str, object]:
    """Give all of them, and the platform."""
    found = package_versions()
    return {
        "aobatch": found.pop("aobatch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
    }


MIN_MEMORY = 10**9
"""The default model and a few sequences."""


class Check(msgspec.Struct, frozen=True):
    """Something that was looked at."""

    name: str
    is_right: bool
    found: str
    advice: str | None = None
    """What to do if it is wrong."""


class Diagnosis(msgspec.Struct, frozen=True):
    """All that was looked at."""

    is_right: bool
    checks: list[Check]
    models: list[ModelRow]


def diagnose(versions: Mapping[str, str | None], settings_file: Path | None) -> Diagnosis:
    """Look at everything that a job depends on; the versions are those of the packages."""
    rows = list_models()
    is_new = sys.version_info >= (3, 11)
    advice = None if is_new else "install Python 3.11 or newer"
    processor = f"{processor_name()}; {', '.join(processor_features()) or 'no 8-bit instructions'}"
    checks = [
        Check("Python", is_new, platform.python_version(), advice),
        *(
            Check(
                name,
                found is not None,
                found or "missing",
                None if found else f"pip install {name}",
            )
            for name, found in versions.items()
        ),
        Check("processor", is_right=True, found=processor),
        _products(),
        _operators(),
        Check("cores", is_right=True, found=str(num_cores())),
        _memory(),
        Check("settings file", is_right=True, found=str(settings_file or "none")),
        _home(is_needed=not any(row.is_default and row.is_ready for row in rows)),
        _answer(next((row.name for row in rows if row.is_ready), None)),
    ]
    return Diagnosis(all(check.is_right for check in checks), checks, rows)


def _products() -> Check:
    """Multiply extreme 8-bit values and compare, as is done before a model is opened."""
    name = "8-bit products"
    try:
        from aobatch.runners.session import integer_entries

        entries = integer_entries()
    except (AobatchError, ImportError) as error:
        return Check(name, is_right=False, found=str(error), advice="use a model of precision fp32")
    found = "exact" if not entries else "exact in a slower way, for want of VNNI"
    return Check(name, is_right=True, found=found)


def _operators() -> Check:
    """Build and try the fused operators, as is done before a model is opened."""
    from aobatch.kernels import library
    from aobatch.runners.choice import missing_operators

    lack = missing_operators()
    found = (
        f"not to be had, so that models run half as fast: {lack}"
        if lack
        else (f"built by {library().compiler}")
    )
    return Check("fused operators", is_right=True, found=found)


def _answer(model: str | None) -> Check:
    """Let a model answer, which says more of the installed packages than their numbers do."""
    name = "answer of a model"
    if model is None:
        return Check(name, is_right=True, found="not tried: no model is here")
    try:
        from aobatch.engine.config import EngineConfig
        from aobatch.executors.local import open_engine
        from aobatch.models.store.catalogue import resolve
        from aobatch.runners import RunnerConfig

        config = EngineConfig(max_num_seqs=1, kv_cache_bytes=MIN_MEMORY // 10)
        engine = open_engine(resolve(model), config, RunnerConfig(num_cores()))
        (result,) = engine.complete(["a"], max_tokens=1)
    except Exception as error:  # noqa: BLE001 - whatever a package that does not fit raises
        found = f"{model}: {type(error).__name__}: {error}"
        advice = "install the packages that requirements.txt names, then pull the model again"
        return Check(name, is_right=False, found=found, advice=advice)
    return Check(name, result.error is None, f"{model} answers")


def _memory() -> Check:
    free, limit = available_memory(), container_limit()
    within = "" if limit is None else f", within the container's limit of {limit / 1e9:.1f} GB"
    is_right = free >= MIN_MEMORY
    advice = None if is_right else "make room, or run where there is more"
    return Check("memory", is_right, f"{free / 1e9:.1f} GB free{within}", advice)


def _home(*, is_needed: bool) -> Check:
    """Say whether models can be kept, which is needed until the default one is there."""
    home = models_home()
    nearest = next(path for path in (home, *home.absolute().parents) if path.exists())
    can_write = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    found = f"{home}, {'can' if can_write else 'cannot'} be written"
    is_right = can_write or not is_needed
    advice = None if is_right else "set AOBATCH_MODELS to a folder of your own"
    return Check("models folder", is_right, found, advice)


@command(JsonOption, exit_codes({0: "everything is right", 1: "something is wrong, see its line"}))
def doctor(options: JsonOption) -> None:
    """Say whether this machine can run jobs.

    Examples:
      aobatch doctor
      aobatch doctor --json | jq .models

    Looks at Python and packages, the processor and whether it multiplies 8-bit integers rightly,
    cores, memory within a container's limit, settings and models, the first of which answers a
    request. Nothing is fetched or changed.
    """
    settings = find_settings(settings_file(click.get_current_context()))
    found = diagnose(package_versions(), settings.path)
    if options.as_json:
        show_json(found)
    else:
        _show(found)
    if not found.is_right:
        raise click.exceptions.Exit(1)


def _show(found: Diagnosis) -> None:
    rows = [
        ("ok" if c.is_right else "WRONG", c.name, "; ".join(filter(None, (c.found, c.advice))))
        for c in found.checks
    ]
    for model in found.models:
        state = "ready" if model.is_ready else f"not here: aobatch models pull {model.name}"
        rows.append(("", "model", f"{model.name} ({model.precision}), {state}"))
    show_table(rows)
