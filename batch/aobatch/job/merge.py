"""The outputs of all shards of a job as the output that the whole job would have."""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import structs

from aobatch.errors import InputError, InputMissingError, UsageError
from aobatch.executors import Statistics
from aobatch.files import replacing, storage_errors
from aobatch.formats import find_format, read_records, write_records
from aobatch.formats.keep import Extras, KeptRows, in_turn
from aobatch.job.config import JobConfig, Shard
from aobatch.job.events import stream_folder
from aobatch.job.ledger import reading
from aobatch.job.paths import Place, check_places, places_of
from aobatch.job.report.usage import Prices, UsageReport, UsageTally, joined, with_cost
from aobatch.job.source import check_output, digest_file
from aobatch.job.state import StateFolder, open_state, state_path
from aobatch.job.status import FinishedJob, read_finished, write_report


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """The published output of a shard, and what its state folder knows of it."""

    path: Path
    ledger: Path
    job: FinishedJob

    @property
    def shard(self) -> Shard:
        """Which part of the job it is."""
        return self.job.selection.shard


def merge_shards(paths: Sequence[Path], output: Path, prices: Prices | None = None) -> UsageReport:
    """Publish the lines of all shards in the order of the inputs, their events and their report.

    InputError, and no output, if a shard is missing or they are not parts of one job.
    """
    config = JobConfig(tuple(paths), output)
    check_places(places_of_merge(config))
    shards = sorted(map(_open, paths), key=lambda shard: shard.shard.index)
    _check_complete(shards)
    for other in shards[1:]:
        if difference := _difference(shards[0].job, other.job):
            message = f"{shards[0].path} and {other.path} are not shards of one job: {difference}"
            raise InputError(message)
    check_output(config)
    _check_records(paths, output)
    with open_state(config) as state:
        if state.ledger.exists() and read_finished(state) is None:
            message = f"{state.path} holds an unfinished job of {output}; name another output"
            raise UsageError(message)
        state.forget_job()
        report = _publish(shards, output, prices)
        structs.replace(
            shards[0].job,
            output=digest_file(output),
            models={name: found for s in shards for name, found in s.job.models.items()},
            report=report,
            selection=replace(shards[0].job.selection, shard=Shard()),
            errors=None,
            events=None,
        ).write(state)
    return report


def places_of_merge(config: JobConfig) -> Iterator[Place]:
    """Yield all that a merge reads and writes."""
    for path in config.inputs:
        shard = JobConfig((), Path(str(path)))
        yield Place(state_path(shard), "the state of a shard", is_folder=True)
        yield Place(stream_folder(shard.output), "the events of a shard", is_folder=True)
    yield from places_of(config)


def _open(path: Path) -> ShardOutput:
    if not path.is_file():
        message = f"shard {path} does not exist; run it first"
        raise InputMissingError(message)
    state = StateFolder(state_path(JobConfig((), path)))
    finished = read_finished(state)
    if finished is None:
        message = (
            f"{path} is not the output of a finished shard: {state.finished} is missing; run the "
            "shard to its end, and bring its folder along if you moved it"
        )
        raise InputError(message)
    if digest_file(path) != finished.output:
        message = f"{path} is not what its run wrote; run the shard again"
        raise InputError(message)
    return ShardOutput(path, state.ledger, finished)


def _check_complete(shards: Sequence[ShardOutput]) -> None:
    count = shards[0].shard.count
    if any(shard.shard.count != count for shard in shards):
        sizes = ", ".join(f"{s.path} is {s.shard.index}/{s.shard.count}" for s in shards)
        message = f"the shards are parts of different divisions: {sizes}"
        raise InputError(message)
    indexes = [shard.shard.index for shard in shards]
    if missing := sorted(set(range(count)) - set(indexes)):
        named = ", ".join(f"{index}/{count}" for index in missing[:8])
        message = f"{len(missing)} of {count} shards are not given, among them {named}"
        raise InputError(message)
    if len(indexes) != count:
        twice = next(index for index in indexes if indexes.count(index) > 1)
        message = f"shard {twice}/{count} is given twice"
        raise UsageError(message)


def _difference(one: FinishedJob, other: FinishedJob) -> str | None:
    """Say why two shards could not be parts of one job."""
    if one.inputs != other.inputs:
        return "their inputs differ"
    if replace(one.selection, shard=Shard()) != replace(other.selection, shard=Shard()):
        return "they were given another --limit, --sample or --seed"
    # A shard knows the models that its own lines name.
    for mine, theirs in ((one.settings, other.settings), (one.models, other.models)):
        for name in mine.keys() & theirs.keys():
            if mine[name] != theirs[name]:
                return f"{name or 'model'} is {mine[name]} in one and {theirs[name]} in the other"
    return None if one.settings.keys() == other.settings.keys() else "their settings differ"


def _publish(shards: Sequence[ShardOutput], output: Path, prices: Prices | None) -> UsageReport:
    report = add_reports([shard.job.report for shard in shards], _measures(shards))
    report = with_cost(report, prices)
    paths = [shard.path for shard in shards]
    extras = _extras(paths)
    with replacing(output) as stream:
        write_records(_in_order(paths), stream, output, extras)
        _copy_events([stream_folder(shard.path) for shard in shards], stream_folder(output))
        write_report(report, output)
    return report


def _check_records(paths: Sequence[Path], output: Path) -> None:
    """Refuse shards whose rows have less than the output is to have."""
    if find_format(output).has_whole_records:
        for path in paths:
            if not find_format(path).has_whole_records:
                message = (
                    f"{path} has the columns of a table alone, and not all that {output} would "
                    "have; merge into a .csv, or write shards as .jsonl or .parquet"
                )
                raise UsageError(message)


def _extras(paths: Sequence[Path]) -> Extras:
    """Put together what the shards have beside their answers."""
    found = [find_format(path).read_written(path) for path in paths]
    first = found[0]
    for path, other in zip(paths, found, strict=True):
        if other.schema != first.schema:
            message = f"{path} and {paths[0]} keep other columns; run both with the same --keep"
            raise InputError(message)
    metadata = dict(first.metadata)
    if models := [table.metadata["aobatch.models"] for table in found if table.metadata]:
        every = {name: id_ for table in models for name, id_ in msgspec.json.decode(table).items()}
        metadata["aobatch.models"] = msgspec.json.encode(every).decode()
    id_type = first.id_type if all(other.id_type == first.id_type for other in found) else None
    if first.schema is None:
        return Extras(id_type, metadata=metadata)
    kept = KeptRows(first.schema, in_turn([table.batches for table in found]), itertools.count(1))
    return Extras(id_type, kept, metadata)


def _in_order(paths: Sequence[Path]) -> Iterator[bytes]:
    """Take a record of each shard in turn, as the lines were shared out."""
    readers = [read_records(path) for path in paths]
    num_records = 0
    while (record := next(readers[num_records % len(readers)], None)) is not None:
        yield record
        num_records += 1
    if any(next(reader, None) is not None for reader in readers):
        message = "the shards have numbers of lines that cannot be those of one job; run them again"
        raise InputError(message)


def _measures(shards: Sequence[ShardOutput]) -> Iterator[tuple[int, int, float, float]]:
    """Read the tokens and seconds of every completed request."""
    columns = "prompt_tokens, completion_tokens, seconds, waited"
    for shard in shards:
        with reading(shard.ledger) as connection:
            yield from connection.execute(f"SELECT {columns} FROM results WHERE status_code = 200")


def _copy_events(folders: Sequence[Path], target: Path) -> None:
    """Copy the event files of all shards, and remove those that are of none."""
    found = {path.name: path for folder in folders for path in folder.glob("*.sse")}
    with storage_errors(target):
        if found:
            target.mkdir(exist_ok=True)
        for path in target.glob("*.sse"):
            if path.name not in found:
                path.unlink()
        for name, path in found.items():
            shutil.copyfile(path, target / name)


def add_reports(
    reports: Sequence[UsageReport], measures: Iterable[tuple[int, int, float, float]]
) -> UsageReport:
    """Add reports up; the measures are tokens and seconds of each completed request.

    Seconds are added too, so that tokens a second are those of one machine at work, and the course
    over time is that of the parts one after another, wherever they were computed.
    """
    tally = UsageTally()
    for report in reports:
        tally.add_report(report)
    for measure in measures:
        tally.add_measures(measure)
    facts = [report.job for report in reports]
    models = {model.name: model for fact in facts for model in fact.models}
    whole = structs.replace(
        facts[0],
        lines=sum(fact.lines for fact in facts),
        created=min(fact.created for fact in facts),
        models=list(models.values()),
    )
    statistics = sum((report.counted for report in reports), Statistics())
    return tally.report(statistics, whole, joined(report.timeline for report in reports))
