"""Which of the inputs' lines a job answers: the first ones, a sample of them, or a shard."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from aobatch.errors import UsageError
from aobatch.formats import Row

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a job: every count-th of its lines, from the index-th on."""

    index: int = 0
    """Counted from 0."""
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether it is the only one."""
        return self.count == 1

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

    def threshold(self, rows: Iterable[Row]) -> int:
        """Give the rank up to which rows belong to the sample; it holds `sample` numbers."""
        if self.sample is None:
            return 0
        ranks = (_rank(self.seed, row.number) for row in rows)
        return max(heapq.nsmallest(self.sample, ranks), default=0)

    def choose(self, rows: Iterable[Row], threshold: int) -> Iterator[tuple[Row, bool]]:
        """Yield rows as far as any is needed, each with whether the job answers it.

        The others are needed too: what a line is may hang on those before it.
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
    if index == AUTO:
        shard = _automatic(int(count) if count.isdecimal() else None, environment)
        is_given = bool(count.isdecimal()) == bool(slash)
    else:
        is_given = index.isdecimal() and count.isdecimal()
        shard = Shard(int(index), int(count)) if is_given else Shard()
    if not is_given or not 0 <= shard.index < shard.count:
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
    """Give a number that follows from seed and line alone, so that no order of reading shows."""
    digest = blake2b(f"{seed} {line}".encode(), digest_size=16, person=b"aobatch-sample")
    return int.from_bytes(digest.digest())
