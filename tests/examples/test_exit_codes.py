"""One law of all schedulers' examples: what becomes of an exit code follows from its meaning."""

import ast
import re
from pathlib import Path

import yaml

from aobatch.cli.command import EXIT_CODES

JOBS = Path(__file__).parents[2] / "jobs"
AGAIN = {73, 74, 75, 130, 143}
"""The world was in the way; the same command goes on."""
FINAL = set(EXIT_CODES) - AGAIN - {0}


def test_every_code_that_says_so_is_tried_again() -> None:
    """The table of the command says `again` of those that end a run and not the job."""
    assert {code for code, meaning in EXIT_CODES.items() if "again" in meaning} <= AGAIN


def test_airflow_gives_up_on_final_codes() -> None:
    """The DAG fails for good where another try would end in the same way."""
    tree = ast.parse((JOBS / "airflow/aobatch_dag.py").read_text())
    (codes,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FINAL_EXIT_CODES"
    ]

    assert codes == FINAL


def test_systemd_restarts_after_no_final_code() -> None:
    """Final codes prevent a restart; being stopped, late or not alone is no failure."""
    service = (JOBS / "cron/aobatch.service").read_text()
    (prevented,) = re.findall(r"^RestartPreventExitStatus=(.*)$", service, re.MULTILINE)
    (fine,) = re.findall(r"^SuccessExitStatus=(.*)$", service, re.MULTILINE)

    assert set(map(int, prevented.split())) == FINAL
    assert set(fine.split()) == {"75", "SIGTERM", "SIGINT", "SIGHUP"}


def test_kubernetes_fails_at_final_codes() -> None:
    """Failed lines fail their shard; what would end every shard fails the job."""
    job = yaml.safe_load((JOBS / "kubernetes/job.yaml").read_text())
    rules = job["spec"]["podFailurePolicy"]["rules"]
    codes = {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in rules
        if "onExitCodes" in rule
    }

    condition = {"type": "DisruptionTarget", "status": "True"}
    assert codes == {"FailIndex": {1}, "FailJob": FINAL - {1}}
    assert rules[0] == {"action": "Ignore", "onPodConditions": [condition]}
