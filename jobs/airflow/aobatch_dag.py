"""Each night: wait for a file of requests, answer it, look at what failed.

Put this file into the DAGs folder. aobatch has an environment of its own, not Airflow's; two
variables of Airflow say where it is, and where the files are:

    airflow variables set aobatch_command /opt/aobatch/bin/aobatch
    airflow variables set aobatch_folder /srv/aobatch

The folder gets requests/2026-11-25.jsonl and so on; the answers go to answers/2026-11-25.jsonl.
Workers need the connection `fs_default`, whose path may be empty, and AOBATCH_MODELS.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.sensors.filesystem import FileSensor
from airflow.sdk import BaseOperator, Context, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

FINAL_EXIT_CODES = {1, 2, 65, 66, 69, 70, 77}
"""The same command would end so again; after all others a retry goes on where the run was."""

MAX_FAILED_SHARE = 0.01
"""Of the lines; a day with more fails."""

FOLDER = "{{ var.value.aobatch_folder }}"


class AobatchOperator(BaseOperator):
    """Runs `aobatch run`; returns its summary."""

    template_fields = ("command", "requests", "answers")

    def __init__(
        self,
        *,
        command: str,
        requests: str,
        answers: str,
        options: tuple[str, ...] = (),
        **kwargs: Any,  # noqa: ANN401 - what every operator takes
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.requests = requests
        self.answers = answers
        self.options = options
        self.hook = SubprocessHook()

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Run the command; fail for good, or until the next try, as its exit code says."""
        files = [self.requests, "--output", self.answers]
        result = self.hook.run_command(
            [self.command, "run", *files, "--summary", "json", *self.options]
        )
        # The last line of what a command writes is the summary, also if it failed.
        if result.exit_code == 0:
            return json.loads(result.output)
        message = f"aobatch ended with exit code {result.exit_code}: {result.output}"
        if result.exit_code in FINAL_EXIT_CODES:
            raise AirflowFailException(message)
        raise AirflowException(message)

    def on_kill(self) -> None:
        """Let the run stop cleanly, also when time is up: what is done is kept, in 5 s at most."""
        with suppress(ProcessLookupError):  # it has just ended by itself
            self.hook.send_sigterm()


@dag(schedule="0 2 * * *", start_date=datetime(2026, 11, 1, tzinfo=UTC), catchup=False)
def aobatch_nightly() -> None:
    """Answer the requests of each day."""
    wait = FileSensor(
        task_id="wait_for_requests",
        filepath=f"{FOLDER}/requests/{{{{ ds }}}}.jsonl",
        mode="reschedule",
        poke_interval=timedelta(minutes=5),
        timeout=timedelta(hours=20),
    )
    run = AobatchOperator(
        task_id="run",
        command="{{ var.value.aobatch_command }}",
        requests=f"{FOLDER}/requests/{{{{ ds }}}}.jsonl",
        answers=f"{FOLDER}/answers/{{{{ ds }}}}.jsonl",
        # Which days are good enough is decided below, where all answers are there.
        options=("--max-failures", "100%"),
        retries=5,
        retry_delay=timedelta(minutes=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
    )

    @task
    def check_failures(summary: dict[str, Any]) -> str:
        """Fail the day if too many lines did, and say why they failed."""
        text = f"{summary['failed']} of {summary['lines']} lines failed {summary['failed_by_code']}"
        if summary["failed"] > MAX_FAILED_SHARE * summary["lines"]:
            raise AirflowFailException(text)
        return text

    wait >> run
    check_failures(run.output)


aobatch_nightly()
