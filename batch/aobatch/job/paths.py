"""Where the answers of inputs go: names from a template, a job for each name, no file twice."""

import glob
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter
from typing import NamedTuple
from urllib.parse import quote

from aobatch.errors import InputMissingError, UsageError
from aobatch.files import storage_errors
from aobatch.formats import is_known, known_suffixes, split_compression
from aobatch.formats.remote import Location, Remote, parse_location
from aobatch.job.config import STREAM, JobConfig, Shard, default_output, local_path
from aobatch.job.events import stream_folder
from aobatch.job.report.usage import report_path
from aobatch.job.source import check_columns, refuse_folder
from aobatch.job.state import state_path
from aobatch.job.status import began_at

_WRITTEN = re.compile(r"\.(out|errors)(-\d+-of-\d+)?\.")
"""In names of files that jobs write unless they are told others."""
_STATE_FOLDER = ".aobatch"
_SKIPPED_FOLDERS = (_STATE_FOLDER, ".stream", "_temporary")
"""The last one holds what Spark has not finished, or never will."""
SHARD = "shard"
FIELDS = ("dir", "stem", "ext", "date", SHARD, "shards")
OF_INPUTS = frozenset({"dir", "stem", "ext"})
"""Fields that give each input an output of its own."""
DAYS_BACK = 30


def expand_inputs(named: Sequence[Location], outputs: Sequence[Location]) -> tuple[Location, ...]:
    """List the files of all inputs; those of a pattern or folder in the order of their names.

    Among several files, those that a job wrote are passed over: a shell's pattern finds them too.
    InputMissingError if nothing is left of an input.
    """
    files: dict[Location, None] = {}
    for location in named:
        if _is_single(location):
            if len(named) == 1 or not _is_output(location, outputs):
                files[location] = None
            continue
        found = [
            file
            for file in _find(location)
            if not _WRITTEN.search(file.name) and not _is_output(file, outputs)
        ]
        if not found:
            message = (
                f"input {location} holds no file of requests; {known_suffixes()}; what jobs wrote "
                "does not count"
            )
            raise InputMissingError(message)
        files.update(dict.fromkeys(found))
    if not files:
        message = "all inputs are outputs of jobs; name the files of requests"
        raise InputMissingError(message)
    return tuple(files)


def _is_single(location: Location) -> bool:
    if isinstance(location, Remote):
        return not location.is_folder and "*" not in location.name
    is_many = location.is_dir() or glob.has_magic(str(location))
    return location == STREAM or location.is_file() or not is_many


def _find(location: Location) -> list[Location]:
    """List the files of known formats that a folder or pattern holds, in order."""
    if isinstance(location, Remote):
        from aobatch.formats.remote import list_files

        pattern = "*" if location.is_folder else location.name
        found = list_files(location if location.is_folder else location.with_name(""))
        return [file for file in found if fnmatchcase(file.name, pattern) and is_known(file)]
    # pathlib's own glob takes no absolute patterns.
    paths = (
        _walk(location)
        if location.is_dir()
        else map(Path, glob.glob(str(location), recursive=True))  # noqa: PTH207
    )
    return [path for path in sorted(paths) if is_known(path) and path.is_file()]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if name[0] != "." and not name.endswith(_SKIPPED_FOLDERS)
        ]
        yield from (Path(parent, name) for name in names if name[0] != ".")


def _is_output(file: Location, outputs: Sequence[Location]) -> bool:
    """Say whether a file is the output of this job or of another one, whose state is beside it."""
    if isinstance(file, Remote):
        return file in outputs
    if file == STREAM:
        return False
    return file.with_name(f"{file.name}{_STATE_FOLDER}").is_dir() or any(
        isinstance(output, Path) and output.exists() and file.exists() and output.samefile(file)
        for output in outputs
    )


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the command line says that results go."""

    output: Location | None = None
    """A name or a template; None is a name beside the only input."""
    errors: Location | None = None
    state_dir: Path | None = None


def plan_jobs(config: JobConfig, targets: Targets) -> list[JobConfig]:
    """Make the jobs that answer the inputs of one: one for all, or one for each input.

    UsageError if a template has an unknown field, or two inputs would have one output.
    """
    output = targets.output
    check_columns(config)
    if output is None:
        if len(config.inputs) > 1:
            message = (
                "several inputs go into one output: name it with --output, or give each its own "
                "with --output '{dir}/{stem}.out{ext}'"
            )
            raise UsageError(message)
        output = _literal(default_output(config.inputs[0], config.selection.shard))
    used = _fields_of(output) | (_fields_of(targets.errors) if targets.errors else set())
    _check_shards(config.selection.shard, targets)
    groups = [(path,) for path in config.inputs] if used & OF_INPUTS else [config.inputs]
    jobs = [_plan(replace(config, inputs=group), output, targets) for group in groups]
    _check_distinct(jobs)
    return jobs


def _plan(config: JobConfig, template: Location, targets: Targets) -> JobConfig:
    source, shard = config.inputs[0], config.selection.shard
    values = {"shard": f"{shard.index:05d}", "shards": f"{shard.count:05d}"}
    if source == STREAM:
        values |= {"dir": ".", "stem": "stdin", "ext": f".{config.stream_format}"}
    else:
        name, compression = split_compression(source)
        plain = Path(name if isinstance(source, Path) else quote(name))
        folder = str(source.parent) if isinstance(source, Path) else source.folder
        values |= {"dir": folder, "stem": plain.stem, "ext": f"{plain.suffix}{compression}"}
    values["date"] = _date_of(config, template, targets.state_dir, values)
    output = _fill(template, values)
    errors = _fill(targets.errors, values) if targets.errors else None
    refuse_folder(output, "the output")
    if errors is not None and not errors.name.endswith(_SKIPPED_FOLDERS):  # else see check_places
        refuse_folder(errors, "--errors")
    if isinstance(output, Remote):
        return _plan_remote(config, output, errors, targets.state_dir)
    if isinstance(errors, Remote):
        message = f"--errors {errors} needs an --output that is a URI too"
        raise UsageError(message)
    if targets.state_dir is not None:
        message = (
            f"--state-dir is for an output that is a URI; the state of {output} stands beside it"
        )
        raise UsageError(message)
    return replace(config, output=output, errors=errors)


def _plan_remote(
    config: JobConfig, output: Remote, errors: Location | None, state_dir: Path | None
) -> JobConfig:
    local = local_path(output, state_dir)
    with storage_errors(local.parent):
        local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = report_path(local)
    uploads = [(report, output.with_name(report.name)), (local, output)]
    if isinstance(errors, Remote):
        uploads.insert(0, (local.with_name(errors.name), errors))
        errors = local.with_name(errors.name)
    return replace(config, output=local, errors=errors, uploads=tuple(uploads))


def _check_shards(shard: Shard, targets: Targets) -> None:
    """Refuse one file of errors for all shards, whose outputs have names of their own."""
    is_named = targets.output is not None and SHARD not in _fields_of(targets.output)
    if targets.errors is None or shard.count == 1 or is_named:
        return
    if SHARD not in _fields_of(targets.errors):
        message = (
            f"each shard would replace --errors {targets.errors} of the others; put {{shard}} "
            "into its name"
        )
        raise UsageError(message)


def _check_distinct(jobs: Sequence[JobConfig]) -> None:
    inputs: dict[Path, Location] = {}
    for job in jobs:
        # That a job has one name twice is for its own checks to say.
        for path in dict.fromkeys((job.output, job.errors)):
            if path is None or path == STREAM:
                continue
            if path in inputs:
                message = f"{inputs[path]} and {job.inputs[0]} would both write {path}; use {{dir}}"
                raise UsageError(message)
            inputs[path] = job.inputs[0]


def _literal(name: Location) -> Location:
    """Make the template of which a name comes out, whatever braces it has."""
    if isinstance(name, Path):
        return Path(str(name).replace("{", "{{").replace("}", "}}"))
    return Remote(name.uri.replace("{", "{{").replace("}", "}}"))


def _fill(template: Location, values: Mapping[str, str]) -> Location:
    if isinstance(template, Path):
        return parse_location(str(template).format_map(values))
    quoted = {name: quote(value, safe="/:%") for name, value in values.items()}
    return Remote(template.uri.format_map(quoted))


def _fields_of(template: Location) -> set[str]:
    """List the fields of a template; UsageError if one is unknown."""
    text = str(template) if isinstance(template, Path) else template.uri
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        message = f"{template} is no template: {error}; write {{{{ for a brace"
        raise UsageError(message) from error
    for _, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            message = f"{template} has an unknown field {{{name}}}; known are {known}"
            raise UsageError(message)
    return {name for _, name, _, _ in parts if name is not None}


def _date_of(
    config: JobConfig, template: Location, state_dir: Path | None, values: Mapping[str, str]
) -> str:
    """Find the day on which the job began: today, or that of an interrupted run of it.

    It is the same job if none of its inputs changed since.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdecimal():
        return datetime.fromtimestamp(int(epoch), UTC).date().isoformat()
    today = datetime.fromtimestamp(time.time(), UTC).astimezone().date()
    if "date" in _fields_of(template):
        for days in range(1, DAYS_BACK + 1):
            day = (today - timedelta(days)).isoformat()
            output = _fill(template, {**values, "date": day})
            began = began_at(local_path(output, state_dir))
            if began is not None and all(_is_older(path, began) for path in config.inputs):
                return day
    return today.isoformat()


def _is_older(path: Location, seconds: float) -> bool:
    """Say whether a file is known not to have changed since a moment, in whole seconds."""
    if path == STREAM:
        return False
    if isinstance(path, Path):
        return path.exists() and path.stat().st_mtime < seconds + 1
    from aobatch.formats.remote import modified_at

    changed = modified_at(path)
    return changed is not None and changed < seconds + 1


class Place(NamedTuple):
    """A file, or a folder with all that is in it, that a command reads or writes."""

    location: Location
    what: str
    """As messages call it."""
    option: str = ""
    """What names it, of files that are written; those that are read have none."""
    is_folder: bool = False


def places_of(job: JobConfig) -> Iterator[Place]:
    """Yield all that a job reads, then all that it writes."""
    yield from (Place(path, "an input") for path in job.inputs)
    if job.settings_file is not None:
        yield Place(job.settings_file, "the settings file")
    yield Place(state_path(job), "the state of the job", "--output", is_folder=True)
    yield Place(job.output, "the output", "--output")
    yield from (Place(target, "an upload of the job", "--output") for _, target in job.uploads)
    if job.output != STREAM:
        yield Place(report_path(job.output), "the usage report", "--output")
        yield Place(stream_folder(job.output), "the events of the job", "--output", is_folder=True)
    for path, option in ((job.errors, "--errors"), (job.depfile, "--depfile")):
        if path is not None:
            yield Place(path, option, option)


def may_be_of_a_job(path: Path) -> bool:
    """Say whether a file is named as requests, answers and what stands beside them are."""
    is_inside = any(parent.name.endswith(_SKIPPED_FOLDERS) for parent in path.absolute().parents)
    return is_inside or is_known(path) or path.name.endswith(".usage.json")


def check_places(places: Iterable[Place]) -> None:
    """Refuse to write a file that is read or written otherwise too; UsageError names both."""
    known: dict[object, Place] = {}
    folders: dict[str, Place] = {}
    for place in places:
        for key in _keys_of(place):
            other = known.setdefault(key, place)
            if other != place and (place.option or other.option):
                _refuse(*((place, "also", other) if place.option else (other, "also", place)))
        if place.is_folder:
            folders.setdefault(os.path.realpath(str(place.location)), place)
    for place in known.values() if folders else ():
        if isinstance(place.location, Path) and place.location != STREAM:
            for parent in Path(os.path.realpath(place.location)).parents:
                if str(parent) in folders:
                    _refuse(place, "in", folders[str(parent)])


def _refuse(place: Place, relation: str, other: Place) -> None:
    message = (
        f"{place.what} {place.location} is {relation} {other.what}; name another file with "
        f"{place.option or other.option}"
    )
    raise UsageError(message)


def _keys_of(place: Place) -> Iterator[object]:
    """Yield what tells a file from others: its name without links, and its place on the disk.

    Devices and pipes hold nothing that could be lost.
    """
    location = place.location
    if isinstance(location, Remote):
        yield str(location)
        return
    target = bool(place.option) if location == STREAM else location
    try:
        status = os.stat(target)  # noqa: PTH116 - of a stream, its descriptor
    except (OSError, ValueError):
        status = None
    if status is not None:
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return
        yield status.st_dev, status.st_ino
    if location != STREAM:
        yield os.path.realpath(location)
