"""Laws of jobs/airflow, in a real Airflow: `make airflow-test` runs them, `make test` does not.

Airflow has an environment of its own, .venv/airflow, without aobatch.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AIRFLOW = ROOT / ".venv/airflow/bin"
Outcomes = dict[str, dict[str, object]]
SCRIPTED = """#!/bin/sh
# A command that ends, try by try, as the words in its file of requests say.
read code rest < "$2"
echo "$rest" > "$2"
echo "starting" >&2
case $code in
    TERM) kill -TERM $$ ;;
    *) echo '{"lines": 100, "failed": '"${rest:-0}"', "failed_by_code": {}}' ; exit $code ;;
esac
"""
FINAL = ["1", "2", "65", "66", "69", "70"]
AGAIN = ["73", "74", "75", "130", "143", "TERM"]


@pytest.fixture(scope="session")
def run_days(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    """Give a function that runs days with a command, in a folder that has their requests."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        "PATH": os.environ["PATH"],
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "jobs/airflow"),
        "AIRFLOW_CONN_FS_DEFAULT": '{"conn_type": "fs"}',
    }
    migrate = [AIRFLOW / "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, timeout=300, capture_output=True)

    def run(folder: Path, command: Path, *days: str, **variables: str) -> Outcomes:
        named = {
            "AIRFLOW_VAR_AOBATCH_COMMAND": str(command),
            "AIRFLOW_VAR_AOBATCH_FOLDER": str(folder),
            **variables,
        }
        result = subprocess.run(
            [AIRFLOW / "python", Path(__file__).with_name("run_dag.py"), *days],
            env=environment | named,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-5000:]
        outcomes: Outcomes = json.loads(result.stdout)
        return outcomes

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the folder that the DAG works in."""
    for name in ("requests", "answers"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_exit_codes_decide_about_another_try(
    folder: Path, run_days: Callable[..., Outcomes]
) -> None:
    """A final code fails the day at the first try; after any other the second try succeeds.

    Too many failed lines fail the check, a few do not.
    """
    command = folder / "aobatch"
    command.write_text(SCRIPTED)
    command.chmod(0o755)
    plans = {**{code: code for code in FINAL}, **{code: f"{code} 0" for code in AGAIN}}
    plans |= {"many": "0 2", "few": "0 1"}
    days = {name: f"2026-11-{number:02d}" for number, name in enumerate(plans, 1)}
    for name, day in days.items():
        (folder / f"requests/{day}.jsonl").write_text(f"{plans[name]}\n")

    outcomes = run_days(folder, command, *days.values())

    failed_at_once, answered_later = ["failed", 1], ["success", 2]
    tasks = {name: outcomes[day]["tasks"] for name, day in days.items()}
    assert {code: tasks[code]["run"] for code in FINAL} == dict.fromkeys(FINAL, failed_at_once)
    assert {tasks[code]["check_failures"][0] for code in FINAL} == {"upstream_failed"}
    assert {code: tasks[code]["run"] for code in AGAIN} == dict.fromkeys(AGAIN, answered_later)
    assert {outcomes[days[code]]["state"] for code in AGAIN} == {"success"}
    assert tasks["many"]["check_failures"] == ["failed", 1]
    assert outcomes[days["few"]]["check"] == "1 of 100 lines failed {}"


def test_a_try_goes_on_where_the_one_before_was_stopped(
    folder: Path, run_days: Callable[..., Outcomes], command: Path, tiny_home: Path
) -> None:
    """The real command, stopped once by its time limit, answers every line in two tries."""
    limited = folder / "aobatch"
    once = f'[ -e "$0.stopped" ] || {{ : > "$0.stopped"; exec {command} "$@" --time-limit 5s; }}'
    limited.write_text(f'#!/bin/sh\n{once}\nexec {command} "$@"\n')
    limited.chmod(0o755)
    lines = [
        f'{{"prompt": "line {n}", "max_tokens": 100, "ignore_eos": true}}' for n in range(2000)
    ]
    (folder / "requests/2026-11-25.jsonl").write_text("\n".join([*lines, "nonsense\n"]))

    outcomes = run_days(folder, limited, "2026-11-25", AOBATCH_MODELS=str(tiny_home))

    outcome = outcomes["2026-11-25"]
    assert outcome["tasks"]["run"] == ["success", 2]
    assert outcome["check"] == "1 of 2001 lines failed {'invalid_json_line': 1}"
    answers = (folder / "answers/2026-11-25.jsonl").read_bytes().splitlines()
    assert len(answers) == outcome["summary"]["lines"] == 2001
    report = json.loads((folder / "answers/2026-11-25.jsonl.usage.json").read_text())
    assert report["statistics"]["runs"] == 2
