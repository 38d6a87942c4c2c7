"""Run jobs/airflow/aobatch_dag.py by `dag.test()` and print what became of its tasks as JSON.

The python is that of Airflow: run_dag.py DAY... Whatever Airflow says goes to standard error.
"""

import json
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

DAGS = Path(__file__).parents[2] / "jobs/airflow"


def run_day(dag: Any, day: str) -> dict[str, Any]:  # noqa: ANN401 - Airflow is not in our environment
    """Run the tasks of a day."""
    run = dag.test(logical_date=datetime.fromisoformat(day).replace(tzinfo=UTC))
    tasks = {task.task_id: task for task in run.get_task_instances()}
    return {
        "state": str(run.state),
        "tasks": {name: [str(task.state), task.try_number] for name, task in tasks.items()},
        "summary": tasks["run"].xcom_pull("run"),
        "check": tasks["check_failures"].xcom_pull("check_failures"),
    }


def main(days: list[str]) -> dict[str, Any]:
    """Run days one after another, without waiting between the tries of a task."""
    sys.path.insert(0, str(DAGS))
    dag = import_module("aobatch_dag").aobatch_nightly()
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
        task.retry_exponential_backoff = False
    return {day: run_day(dag, day) for day in days}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        outcome = main(sys.argv[1:])
    json.dump(outcome, sys.stdout)
