"""Laws of the choice of lines: parts of a job answer as the whole job does."""

import random
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import output, requests, run, run_and_stop, texts, write_input

from aobatch.errors import JobError, UsageError
from aobatch.formats import Row
from aobatch.job.config import Selection, Shard, parse_shard

LINES = [
    *requests(["a", "b", "a", "fail c"]),
    b"",
    {"prompt": "d", "custom_id": "x"},
    b"nonsense",
    {"prompt": "e", "custom_id": "x"},
    *requests(["a", "f", "a"], stream=True),
    b" ",
    *requests([f"p{i}" for i in range(20)]),
]


@pytest.fixture
def whole(tmp_path: Path) -> list[bytes]:
    """Give the output lines of the whole job."""
    write_input(tmp_path / "in.jsonl", LINES)
    run(tmp_path)
    return (tmp_path / "out.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("limit", [1, 6, 7, 1000])
def test_limit_answers_the_first_lines(tmp_path: Path, whole: list[bytes], limit: int) -> None:
    """The output is the beginning of the whole job's, byte for byte."""
    run(tmp_path, selection=Selection(limit=limit))

    assert (tmp_path / "out.jsonl").read_bytes().splitlines() == whole[:limit]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_shards_take_turns(tmp_path: Path, whole: list[bytes], count: int) -> None:
    """Shard i answers lines i, i + n, i + 2n as the whole job does, repeated ones too."""
    for index in range(count) if count < 40 else (0, 19, 31, 39):
        run(tmp_path, selection=Selection(shard=Shard(index, count)), is_restart=True)

        assert (tmp_path / "out.jsonl").read_bytes().splitlines() == whole[index::count]


def test_shards_divide_what_a_limit_leaves(tmp_path: Path, whole: list[bytes]) -> None:
    """A limit counts lines ahead of the division."""
    run(tmp_path, selection=Selection(limit=5, shard=Shard(1, 2)), is_restart=True)

    assert (tmp_path / "out.jsonl").read_bytes().splitlines() == whole[1:5:2]


def test_sample_has_its_size_and_order(tmp_path: Path, whole: list[bytes]) -> None:
    """So many lines of the whole output come out, in its order; another seed draws others."""
    samples = []
    for seed in (1, 1, 2):
        run(tmp_path, selection=Selection(sample=9, seed=seed))
        samples.append((tmp_path / "out.jsonl").read_bytes().splitlines())
        places = [whole.index(line) for line in samples[-1]]
        assert places == sorted(places)
        assert len(set(places)) == 9

    assert samples[0] == samples[1] != samples[2]


def test_sample_of_more_than_there_is_takes_all(tmp_path: Path, whole: list[bytes]) -> None:
    """A sample larger than the input is the input."""
    run(tmp_path, selection=Selection(sample=10_000))

    assert (tmp_path / "out.jsonl").read_bytes().splitlines() == whole


def test_sample_depends_on_line_numbers_alone() -> None:
    """The order in which rows are read changes nothing, and each is drawn about as often."""
    rows = [Row(number, b"") for number in range(1, 201)]
    shuffled = random.Random(5).sample(rows, len(rows))
    counts = dict.fromkeys(range(1, 201), 0)
    for seed in range(150):
        selection = Selection(sample=50, seed=seed)
        drawn = {
            frozenset(row.number for row, is_in in selection.choose(order, threshold) if is_in)
            for order in (rows, shuffled)
            for threshold in (selection.bounds(rows)[0], selection.bounds(shuffled)[0])
        }
        assert len(drawn) == 1
        for number in next(iter(drawn)):
            counts[number] += 1

    assert sum(counts.values()) == 150 * 50
    # 37.5 expected, standard deviation 5.3; 200 numbers reach 4.5 of them once in 700 trials.
    assert max(abs(count - 37.5) for count in counts.values()) < 4.5 * 5.3


def test_part_of_a_job_is_kept_for_the_whole(tmp_path: Path) -> None:
    """What a limited run computed is not computed again by the whole one, nor by a limited one."""
    write_input(tmp_path / "in.jsonl", requests([str(i) for i in range(10)]))
    first, second, third = FakeBackend(), FakeBackend(), FakeBackend()

    run(tmp_path, first, selection=Selection(limit=4))
    whole = run(tmp_path, second)
    run(tmp_path, third, selection=Selection(sample=3))

    assert not whole.was_finished
    assert (len(first.computed), len(second.computed), third.computed) == (4, 6, [])
    assert len(output(tmp_path)) == 3


def test_overrides_replace_what_lines_say(tmp_path: Path) -> None:
    """A forced field holds for every line, right or wrong, and is a setting of the job."""
    lines = [{"prompt": "a", "n": 3}, {"prompt": "b"}, {"prompt": "c", "n": "wrong"}]
    write_input(tmp_path / "in.jsonl", lines)
    backend = FakeBackend()

    report = run(tmp_path, backend, overrides={"prompt": "forced", "n": 1}).report
    again = run(tmp_path, backend, overrides={"prompt": "other", "n": 1})

    assert report.requests.failed == 0
    assert not again.was_finished
    assert texts(tmp_path) == ["[other]"] * 3


@pytest.mark.parametrize(
    ("overrides", "words"), [({"temprature": 1}, "Did you mean"), ({"n": 0}, "'n'")]
)
def test_wrong_override_stops_the_job(
    tmp_path: Path, overrides: dict[str, object], words: str
) -> None:
    """A field that no line could have is an error of usage."""
    write_input(tmp_path / "in.jsonl", requests(["a"]))

    with pytest.raises(UsageError, match=words):
        run(tmp_path, overrides=overrides)


SLURM = {
    "SLURM_ARRAY_TASK_ID": "14",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("0/1", {}, Shard(0, 1)),
        ("3/4", SLURM, Shard(3, 4)),
        ("auto", SLURM, Shard(2, 5)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "3"}, Shard(3, 4)),
        ("auto/2", {"SLURM_ARRAY_TASK_ID": "1"}, Shard(1, 2)),
    ],
)
def test_shards_are_read(text: str, environment: dict[str, str], shard: Shard) -> None:
    """A shard is given, or found where Slurm and Kubernetes say it."""
    assert parse_shard(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        *((text, {}, "is no shard") for text in ("4/4", "1", "a/b", "-1/4", "0/0", "")),
        ("auto", {}, "finds neither"),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, "how many"),
        ("auto/", SLURM, "is no shard"),
        ("auto/2", SLURM, "is no shard"),
    ],
)
def test_wrong_shards_are_refused(text: str, environment: dict[str, str], words: str) -> None:
    """Whatever is no shard says what to write."""
    with pytest.raises(UsageError, match=words):
        parse_shard(text, environment)


def test_event_files_of_shards_bear_the_lines_numbers(tmp_path: Path) -> None:
    """A stream has the name that it has in the whole job."""
    write_input(tmp_path / "in.jsonl", LINES)
    names = []
    for index in range(2):
        run(tmp_path, selection=Selection(shard=Shard(index, 2)), is_restart=True)
        names += [path.name for path in (tmp_path / "out.jsonl.stream").iterdir()]

    assert {"000009.sse", "000010.sse", "000011.sse"} == {*names}


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("earlier", [Shard(0, 2), Shard(1, 3), Shard()])
def test_a_shard_does_not_replace_what_another_answered(
    tmp_path: Path, earlier: Shard, is_finished: bool
) -> None:
    """Answers of another shard stay where they are, finished or not, until they are discarded."""
    write_input(tmp_path / "in.jsonl", LINES)
    if is_finished:
        run(tmp_path, selection=Selection(shard=earlier))
    else:
        run_and_stop(tmp_path, 4, selection=Selection(shard=earlier))
    before = {path: path.read_bytes() for path in tmp_path.glob("out.jsonl*") if path.is_file()}

    with pytest.raises(JobError, match="--restart"):
        run(tmp_path, selection=Selection(shard=Shard(1, 2)))

    assert before == {p: p.read_bytes() for p in tmp_path.glob("out.jsonl*") if p.is_file()}
    run(tmp_path, selection=Selection(shard=Shard(1, 2)), is_restart=True)
