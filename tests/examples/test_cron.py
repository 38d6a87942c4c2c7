"""Laws of jobs/cron: the very command line of the crontab, and units that systemd takes."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from aobatch.files import hold_lock

EXAMPLES = Path(__file__).parents[2] / "jobs/cron"
CRONTAB = (EXAMPLES / "aobatch.crontab").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with requests, one of which asks for text beyond ASCII."""
    lines = [f'{{"prompt": "naïve {number}", "max_tokens": 4}}\n' for number in range(5)]
    (tmp_path / "requests.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def run_night(folder: Path, command: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the line as cron does: a shell, the variables of the file, and next to nothing else."""
    variables = dict(re.findall(r"^([A-Z_]+)=(.*)$", CRONTAB, re.MULTILINE))
    assert {"AOBATCH", "AOBATCH_MODELS", "FOLDER", "METRICS"} <= variables.keys()
    variables |= {
        "AOBATCH": str(command),
        "AOBATCH_MODELS": str(home),
        "FOLDER": str(folder),
        "METRICS": str(folder / "aobatch.prom"),
        "SHELL": "/bin/sh",
        "PATH": "/usr/bin:/bin",
        "LANG": "C",
        # Else operators would be built once more, in the home that the system says is the user's.
        "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"],
    }
    (line,) = re.findall(r"^[0-9*]\S* +\S+ +\S+ +\S+ +\S+ +(.*)$", CRONTAB, re.MULTILINE)
    assert "%" not in line, "cron ends a command at a percent sign"
    return subprocess.run(
        ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), "sh", "-c", line],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_night_is_silent(
    folder: Path, real_command: Path, command: Path, tiny_home: Path
) -> None:
    """Without a home, a language or a terminal all is answered, and nothing is there to be mailed.

    The metrics say when that was. A night that overlaps ends with code 75 and one line, which names
    the process at work, and leaves the output of the other one alone.
    """
    night = run_night(folder, real_command, tiny_home)

    assert (night.returncode, night.stdout, night.stderr) == (0, "", "")
    assert len((folder / "requests.out.jsonl").read_bytes().splitlines()) == 5
    assert "\naobatch_last_success_timestamp_seconds{" in (folder / "aobatch.prom").read_text()
    output = folder / "requests.out.jsonl"
    before = output.stat().st_mtime_ns
    with hold_lock(folder / "requests.out.jsonl.aobatch/lock"):
        late = run_night(folder, command, tiny_home)

    assert (late.returncode, late.stdout, late.stderr.count("\n")) == (75, "", 1)
    assert f"process {os.getpid()} on " in late.stderr
    assert output.stat().st_mtime_ns == before


def test_a_bad_night_says_one_line(folder: Path, command: Path, tiny_home: Path) -> None:
    """A wrong line, missing requests and a missing model: an exit code and one sentence each."""
    with (folder / "requests.jsonl").open("a") as stream:
        stream.write("nonsense\n")
    failed = run_night(folder, command, tiny_home)
    (folder / "requests.jsonl").unlink()
    missing = run_night(folder, command, tiny_home)
    (folder / "requests.jsonl").write_text('{"prompt": "a", "model": "gone"}\n')
    other = run_night(folder, command, tiny_home)

    assert [night.returncode for night in (failed, missing, other)] == [1, 66, 1]
    assert {night.stdout for night in (failed, missing, other)} == {""}
    assert failed.stderr.count("\n") == missing.stderr.count("\n") == 1
    assert "1 of 6 lines failed" in failed.stderr
    assert str(folder / "requests.jsonl") in missing.stderr


def test_the_service_runs_the_command_of_the_crontab() -> None:
    """Both schedulers are told the same."""
    (line,) = re.findall(r'^\S+ \S+ .*"\$AOBATCH" (.*)$', CRONTAB, re.MULTILINE)
    variables = re.findall(r"^([A-Z_]+)=(.*)$", CRONTAB, re.MULTILINE)
    for name, value in variables:
        line = line.replace(f"${name}", value).replace('"', "")

    service = unit("aobatch.service")["Service"]
    assert service["ExecStart"] == f"{dict(variables)['AOBATCH']} {line}"
    assert service["Environment"] == f"AOBATCH_MODELS={dict(variables)['AOBATCH_MODELS']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about either unit."""
    for name in ("aobatch.service", "aobatch.timer"):
        text = (EXAMPLES / name).read_text()
        # The command need not be installed where the suite runs.
        (tmp_path / name).write_text(text.replace("/opt/aobatch/bin/aobatch", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]

    result = subprocess.run(
        [*command, *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def unit(name: str) -> ConfigParser:
    """Read a unit."""
    parser = ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(EXAMPLES / name)
    return parser


@pytest.mark.parametrize("path", ["aobatch.crontab", "aobatch.service"])
def test_examples_say_which_extra_they_need(path: str) -> None:
    """Who installs the example without it would be told by the first night."""
    text = (EXAMPLES / path).read_text(encoding="utf-8")

    assert "--metrics-file" in text
    assert "the extra [metrics] (pip install prometheus_client)" in text
