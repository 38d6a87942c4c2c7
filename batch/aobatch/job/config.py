"""What a job is to do, as one value built where the job is asked for."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import cast

from aobatch.errors import UsageError
from aobatch.formats import Row, split_compression
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location, Remote, parse_location
from aobatch.formats.template import Template
from aobatch.job.report.usage import Prices

AUTO = "auto"
STREAM = Path("-")
"""Standard input among the inputs, standard output as the output."""
STATE_FOLDER = Path("aobatch-state")
"""Where the state of jobs whose output is remote is kept, unless they are told another place."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a job: every count-th of its lines, from the index-th on."""

    index: int = 0
    """Counted from 0."""
    count: int = 1

    def __str__(self) -> str:
        """Write it as the command line does, 3/8."""
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """The way in which files of shards are named, 00003-of-00008."""
        return f"{self.index:05d}-of-{self.count:05d}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The lines of a job; by default all of them."""

    limit: int | None = None
    """Only so many, the first ones."""
    sample: int | None = None
    """Only so many, drawn by their line numbers."""
    seed: int = 0
    """Of the draw."""
    shard: Shard = Shard()
    """Of what limit or sample leave."""

    @property
    def is_partial(self) -> bool:
        """Whether lines are left out that no shard has."""
        return self.limit is not None or self.sample is not None

    def bounds(self, rows: Iterable[Row]) -> tuple[int, int]:
        """Find the rank up to which rows belong to the sample, and how many of them do."""
        if self.sample is None:
            return 0, 0
        ranks = heapq.nsmallest(self.sample, (_rank(self.seed, row.number) for row in rows))
        return max(ranks, default=0), len(ranks)

    def count(self, total: int) -> int:
        """Say how many of so many lines are chosen; of a sample, the total is its own."""
        limited = total if self.limit is None else min(total, self.limit)
        return len(range(self.shard.index, limited, self.shard.count))

    def choose(self, rows: Iterable[Row], threshold: int) -> Iterator[tuple[Row, bool]]:
        """Yield rows as far as any is needed, each with whether the job answers it.

        The others are needed too: what a line is may depend on those before it.
        """
        num_selected = 0
        for row in rows:
            if num_selected == self.limit:
                return
            is_selected = self.sample is None or _rank(self.seed, row.number) <= threshold
            yield row, is_selected and num_selected % self.shard.count == self.shard.index
            num_selected += is_selected


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read `3/8`, `auto` or `auto/8`; UsageError for anything else.

    `auto` takes the index from an indexed Kubernetes job or a Slurm array, and from the latter
    also how many there are.
    """
    index, slash, count = text.strip().partition("/")
    if index == AUTO and (count.isdecimal() or not slash):
        shard = _automatic(int(count) if slash else None, environment)
    elif index.isdecimal() and count.isdecimal():
        shard = Shard(int(index), int(count))
    else:
        shard = Shard(0, 0)
    if not 0 <= shard.index < shard.count:
        message = (
            f"--shard {text!r} is no shard; write 0/4 for the first of four, 3/4 for the last one"
        )
        raise UsageError(message)
    return shard


def _automatic(count: int | None, environment: Mapping[str, str]) -> Shard:
    kubernetes = environment.get("JOB_COMPLETION_INDEX", "")
    slurm = {
        name: int(text)
        for name in ("ID", "MIN", "STEP", "COUNT")
        if (text := environment.get(f"SLURM_ARRAY_TASK_{name}", "")).isdecimal()
    }
    if kubernetes.isdecimal():
        index = int(kubernetes)
    elif "ID" in slurm:
        index = (slurm["ID"] - slurm.get("MIN", 0)) // max(1, slurm.get("STEP", 1))
        count = count or slurm.get("COUNT")
    else:
        message = (
            "--shard auto finds neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID; write it "
            "as 0/4"
        )
        raise UsageError(message)
    if count is None:
        message = "--shard auto does not know how many shards there are; write it as auto/4"
        raise UsageError(message)
    return Shard(index, count)


def _rank(seed: int, line: int) -> int:
    """Derive a number that follows from seed and line alone, so that no order of reading shows."""
    digest = blake2b(f"{seed} {line}".encode(), digest_size=16, person=b"aobatch-sample")
    return int.from_bytes(digest.digest())


@dataclass(frozen=True, slots=True)
class JobConfig:
    """The inputs and output of a job and what its lines may leave out."""

    inputs: tuple[Location, ...]
    output: Path
    model: str | None = None
    """The model of lines that name none; None is the default model."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Values for body fields that a line leaves out."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Values for body fields that replace those of every line."""
    selection: Selection = field(default_factory=Selection)
    """Which of the lines are answered."""
    errors: Path | None = None
    """Where failed lines go as well."""
    errors_apart: bool = False
    """Whether failed lines go there alone, and not to the output."""
    stream_format: str = "jsonl"
    """The suffixes that would say what standard input and output are."""
    uploads: tuple[tuple[Path, Remote], ...] = ()
    """Files of the job and where they are to be in the end, the output last."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of tables that give fields of other names."""
    template: Template | None = None
    """What writes the prompts of rows that are data."""
    keep: tuple[str, ...] = ()
    """Columns of the inputs that go along into the output; `all` is every one."""
    ignore_unknown: bool = False
    is_restart: bool = False
    """Discard the results of an earlier run instead of going on from them."""
    retries_failed: bool = False
    """Compute requests again that ended with an error in an earlier run."""
    prices: Prices | None = None
    """What tokens cost, for the report."""
    depfile: Path | None = None
    """Where to write, for make, which files the output is made from."""
    settings_file: Path | None = None
    """Where settings came from, which is one of these files."""

    def __post_init__(self) -> None:
        """Take texts for paths, and a path alone for all inputs."""
        given: object = self.inputs
        inputs = [given] if isinstance(given, str | Path | Remote) else self.inputs
        object.__setattr__(self, "inputs", tuple(map(_location, inputs)))
        object.__setattr__(self, "output", Path(self.output))

    @property
    def is_text(self) -> bool:
        """Whether what goes to standard output can be read there."""
        return self.stream_format == "jsonl"

    @property
    def published(self) -> Location:
        """Where whoever asked for the job finds its output."""
        return self.uploads[-1][1] if self.uploads else self.output

    @property
    def table_columns(self) -> Columns:
        """How columns of tables become fields."""
        return Columns(
            self.columns,
            self.ignore_unknown,
            frozenset(self.defaults),
            template=self.template,
            keep=self.keep,
        )


def _location(place: object) -> Location:
    return parse_location(place) if isinstance(place, str) else cast("Location", place)


@dataclass(frozen=True, slots=True)
class FailureAllowance:
    """How many lines may fail before a published job counts as failed."""

    amount: float
    is_percentage: bool = False

    def allows(self, num_failed: int, num_total: int) -> bool:
        """Say whether so many failed lines among so many lines are acceptable."""
        bound = self.amount * num_total / 100 if self.is_percentage else self.amount
        return num_failed <= bound


def parse_allowance(text: str) -> FailureAllowance:
    """Read `12` or `2.5%`; UsageError for anything else."""
    number = text.strip().removesuffix("%")
    is_percentage = number != text.strip()
    try:
        amount = float(number) if is_percentage else int(number)
    except ValueError:
        amount = -1
    if not 0 <= amount <= (100 if is_percentage else float("inf")):
        message = (
            f"--max-failures {text!r} is not a number of lines such as 12, or a percentage such "
            "as 2.5%"
        )
        raise UsageError(message)
    return FailureAllowance(amount, is_percentage)


def local_path(output: Location, state_dir: Path | None) -> Path:
    """Say where an output is written: there, or for a remote one, in a folder of this machine."""
    if isinstance(output, Path):
        return output
    folder = f"{output.name}-{sha256(str(output).encode()).hexdigest()[:8]}"
    return (state_dir or STATE_FOLDER) / folder / output.name


def default_output(source: Location, shard: Shard | None = None) -> Location:
    """Name the output of an input file: a.jsonl.gz gives a.out.jsonl.gz beside it.

    Shards have names of their own, such as a.out-00000-of-00004.jsonl.gz.
    """
    if source == STREAM:
        return STREAM
    name, compression = split_compression(source)
    plain = Path(name)
    part = "" if shard is None or shard.count == 1 else f"-{shard.name}"
    return source.with_name(f"{plain.stem}.out{part}{plain.suffix}{compression}")
