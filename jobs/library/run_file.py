"""Run a file of requests from a program, with its own progress, and read the usage report.

python jobs/library/run_file.py jobs/poems.jsonl poems.out.jsonl
"""

import sys
from pathlib import Path

import aobatch


class PercentProgress:
    """Shows each further tenth of the lines, and every warning."""

    def __init__(self) -> None:
        self._num_lines = 0
        self._num_answered = 0

    def start(self, total: int, known: int) -> None:
        """Hear how many lines there are, and how many an earlier run has answered."""
        self._num_lines, self._num_answered = total, known
        say(f"{total} lines, {known} of them answered before")

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Hear that further lines were answered with so many new tokens."""
        del num_tokens
        before = 10 * self._num_answered // self._num_lines
        self._num_answered += num_lines
        if (tenths := 10 * self._num_answered // self._num_lines) > before:
            say(f"{10 * tenths} %")

    def fail(self) -> None:
        """Hear that the line that was answered last has an error."""
        say("a line failed")

    def warn(self, message: str) -> None:
        """Hear of something that went wrong and does not stop the job."""
        say(f"warning: {message}")

    def close(self) -> None:
        """Hear that nothing more will be computed."""


def main(source: Path, output: Path) -> None:
    """Run the job and say what it used; run again, it goes on where it was."""
    config = aobatch.JobConfig(inputs=(source,), output=output, defaults={"max_tokens": 32})
    try:
        outcome = aobatch.run_job(config, aobatch.LocalBackend(), PercentProgress())
    except aobatch.JobError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    report = outcome.report
    say(f"{report.requests.completed} answered, {report.requests.failed} failed")
    say(f"{report.usage.prompt_tokens} + {report.usage.completion_tokens} tokens")


def say(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
