"""`aobatch status`, `results`, `report` and `merge`: what became of jobs, by their outputs."""

import time
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.cli.command import command, exit_codes, places_read
from aobatch.cli.console import say, say_report, show, show_report
from aobatch.cli.ending import interruptible
from aobatch.cli.options import JsonOption, PricesOption, QuietOption, StateOption, option, options
from aobatch.cli.values import ANY_PATH, LOCATION
from aobatch.errors import UsageError
from aobatch.text import duration

if TYPE_CHECKING:
    from aobatch.formats.remote import Location
    from aobatch.job.status import JobStatus

STREAM = Path("-")


@options()
class OutputArgument(StateOption):
    """For commands about a job."""

    output: "Location" = field(metadata={"metavar": "OUT", "type": LOCATION})

    @property
    def path(self) -> Path:
        """Where the output is, or the copy of one that is remote."""
        from aobatch.job.config import local_path

        return local_path(self.output, self.state_dir)


WATCH_SECONDS = 2.0


@options()
class StatusOptions(JsonOption, OutputArgument):
    """What the command line gives."""

    watch: bool = option(False, "Say it again every two seconds, while a run is at work.")


@command(StatusOptions, exit_codes({0: "there is such a job"}, 65, 66, 130))
def status(options: StatusOptions) -> None:
    """Say how far a running or interrupted job is.

    Examples:
      aobatch status jobs/poems.out.jsonl
      aobatch status answers.jsonl --watch
      aobatch status answers.jsonl --json | jq .answered

    OUT is the output of the job. A run that is at work is not disturbed.
    """
    import msgspec

    from aobatch.job.status import job_status

    with interruptible():
        while True:
            found = job_status(options.path)
            if options.as_json:
                show(msgspec.json.encode(found).decode())
            else:
                show(_sentence(options.output, found))
            if not options.watch or found.state != "running":
                return
            time.sleep(WATCH_SECONDS)


def _sentence(output: "Location", found: "JobStatus") -> str:
    share = f"{found.answered:,} of {found.lines:,} lines answered"
    failed = f", {found.failed:,} of them failed" if found.failed else ""
    taken = duration(found.seconds, is_exact=False)
    done = f"{share}{failed}, {found.completion_tokens:,} new tokens in {taken}"
    if found.state == "finished":
        return f"{output} is finished: {done}"
    left = found.seconds_left
    rest = "" if left is None else f", about {duration(left, is_exact=False)} to go"
    if found.state == "running":
        return f"{output} is under way by {found.holder}: {done}{rest}"
    return f"{output} was interrupted; run the same command again: {done}{rest}"


@options()
class ResultsOptions(OutputArgument):
    """What the command line gives."""

    watch: bool = option(False, "Go on with further answers, while a run is at work.")


@command(ResultsOptions, exit_codes({0: "the answers so far are printed"}, 65, 66, 130))
def results(options: ResultsOptions) -> None:
    """Print the answers that a job has so far, as lines.

    Examples:
      aobatch results answers.jsonl | head
      aobatch results answers.parquet | jq -r .error.message
      aobatch results answers.jsonl --watch

    OUT is the output of the job, which does not have to be there yet. The lines are in the order of
    the input and are those that the output will have, without what --keep adds; with --watch, those
    that come later follow in the order in which they were found. A run that is at work is not
    disturbed.
    """
    from aobatch.job.results import known_lines
    from aobatch.job.status import job_status

    seen: set[int] = set()
    with interruptible():
        while True:
            is_running = job_status(options.path).state == "running"
            started = time.monotonic()
            for number, line in known_lines(options.path):
                if number not in seen:
                    show(line.decode())
                    seen.add(number)
            if not (options.watch and is_running):
                return
            time.sleep(max(WATCH_SECONDS / 2, 10 * (time.monotonic() - started)))


@options()
class ReportOptions(PricesOption, OutputArgument):
    """What the command line gives."""

    json_path: Path | None = option(
        None,
        "Everything, for programs.",
        "--json",
        metavar="[FILE]",
        is_flag=False,
        flag_value=STREAM,
    )
    html_path: Path | None = option(
        None, "One page with plots that needs no network (extra [report]).", "--html"
    )
    markdown_path: Path | None = option(None, "For comments and wikis.", "--markdown")


@command(ReportOptions, exit_codes({0: "the report is shown"}, 65, 66, 73, 74))
def report(options: ReportOptions) -> None:
    """Show the usage report of a job again.

    Examples:
      aobatch report answers.jsonl
      aobatch report answers.jsonl --html report.html --prices prices.toml
      aobatch report answers.jsonl --json | jq .usage.total_tokens
      aobatch report answers.jsonl --markdown - >> $GITHUB_STEP_SUMMARY

    OUT is the output of the job. That of an unfinished job says what it has so far. FILE may be -
    for standard output; behind --json it may be left out.
    """
    from aobatch.job.report.facts import past_report
    from aobatch.job.report.page import report_page
    from aobatch.job.report.text import report_markdown
    from aobatch.job.report.usage import report_json, with_cost

    paths = options.json_path, options.html_path, options.markdown_path
    if paths.count(STREAM) > 1:
        message = "only one form of the report fits on standard output; name files for the others"
        raise UsageError(message)
    _check_forms(options)
    found = with_cost(past_report(options.path), options.known_prices())
    if options.json_path is not None:
        _put(options.json_path, report_json(found))
    if options.html_path is not None:
        _put(options.html_path, report_page(found, options.output.name))
    if options.markdown_path is not None:
        _put(options.markdown_path, report_markdown(found, options.output.name).encode())
    if not any(paths):
        show_report(found)


def _check_forms(options: ReportOptions) -> None:
    """Refuse to write the report over a file of the job, whose inputs are not known here."""
    from aobatch.job.config import JobConfig
    from aobatch.job.paths import Place, check_places, may_be_of_a_job, places_of

    places = [*places_read(options), *places_of(JobConfig((), options.path))]
    for form in ("json", "html", "markdown"):
        path: Path | None = getattr(options, f"{form}_path")
        if path is None or path == STREAM:
            continue
        if path.is_file() and may_be_of_a_job(path):
            message = f"--{form} {path} is a file of a job; name another file"
            raise UsageError(message)
        places.append(Place(path, f"--{form}", f"--{form}"))
    check_places(places)


def _put(path: Path, content: bytes) -> None:
    """Write a form of the report where it belongs."""
    from aobatch.job.report.summary import write_anywhere

    if path == STREAM:
        show(content.decode(), end="")
        return
    write_anywhere(path, content)
    say(f"report in {path}")


@options()
class MergeOptions(QuietOption, PricesOption):
    """What the command line gives."""

    shards: tuple[Path, ...] = field(
        metadata={"metavar": "SHARD...", "nargs": -1, "required": True, "type": ANY_PATH}
    )
    output: Path = option(
        STREAM, "Where the answers go.", "-o", metavar="OUT", required=True, type=ANY_PATH
    )


@command(
    MergeOptions,
    exit_codes(
        {0: "the output is published", 65: "a shard is missing, unfinished or of another job"},
        *(66, 73, 74, 75, 130, 143),
    ),
)
def merge(options: MergeOptions) -> None:
    """Put the outputs of all shards of a job together.

    Examples:
      aobatch run all.jsonl --shard 0/2 && aobatch run all.jsonl --shard 1/2
      aobatch merge all.out-*-of-00002.jsonl -o all.out.jsonl

    The output is, byte for byte, that of the job run as a whole at the same time (the responses
    carry the time at which the job began; SOURCE_DATE_EPOCH sets it). The state folders of the
    shards must stand beside them. Usage, reports and event files are put together as well.
    """
    from aobatch.job.config import JobConfig
    from aobatch.job.merge import merge_shards, places_of_merge
    from aobatch.job.paths import check_places

    config = JobConfig(options.shards, options.output)
    check_places([*places_read(options), *places_of_merge(config)])
    with interruptible():
        report = merge_shards(options.shards, options.output, options.known_prices())
    if not options.quiet:
        say_report(report)
        say(f"answers in {options.output}, report in {options.output}.usage.json")
