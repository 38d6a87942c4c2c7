"""What exit codes mean: the one table of them."""

from collections.abc import Mapping

EXIT_CODES = {
    0: "every line was answered, or as many as --max-failures asks for",
    1: "published, but more lines failed than --max-failures allows",
    2: "the command line or a setting is wrong",
    65: "an input is not readable, or the state belongs to another job",
    66: "there is no such input",
    69: "the model is missing or cannot be used",
    70: "a defect of aobatch",
    73: "the output cannot be created",
    74: "the disk is full or failed",
    75: "another run is at work on this job, or the time limit came; run again later",
    130: "stopped by Ctrl-C (SIGINT); run again to go on",
    143: "stopped by SIGTERM; run again to go on",
}
"""Those of `aobatch run`."""

ALWAYS = (2, 70)
"""Codes that every command may end with."""


def exit_codes(own: Mapping[int, str], *shared: int) -> dict[int, str]:
    """Give the table of a command: what only it says, and the codes that mean what run's do."""
    codes = {code: EXIT_CODES[code] for code in (*ALWAYS, *shared)} | dict(own)
    return dict(sorted(codes.items()))
