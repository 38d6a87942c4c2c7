"""Laws of jobs/ray: pods that Kubernetes knows, a command that parses, names that agree."""

import re
import shlex
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from aobatch.cli.run import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "jobs/ray"
DOCKERFILE = (EXAMPLES / "Dockerfile").read_text()
JOB = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())["spec"]
CLUSTER = JOB["rayClusterSpec"]
HEAD, WORKERS = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"][0]


@pytest.mark.parametrize("group", [HEAD, WORKERS], ids=["head", "workers"])
def test_pods_follow_the_schema_and_may_do_little(group: dict[str, dict[str, object]]) -> None:
    """Kubernetes knows every field of the pods; none is root or has a token of the cluster."""
    spec = group["template"]["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.33", strict=True)

    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits["memory"] == requests["memory"]


def test_the_entry_point_is_a_command_that_parses() -> None:
    """The options exist, and there are as many workers as pods for them."""
    program, command, *arguments = shlex.split(JOB["entrypoint"])
    context = run.make_context("run", [*arguments])

    assert (program, command) == ("aobatch", "run")
    assert context.params["executor"] == "ray"
    assert context.params["workers"] == WORKERS["replicas"] == WORKERS["maxReplicas"]


def test_nobody_without_the_token_is_let_in() -> None:
    """Ray runs the code of whoever reaches it, unless it asks for a token."""
    assert CLUSTER["authOptions"] == {"mode": "token"}


def test_workers_are_where_the_driver_is_not() -> None:
    """The head offers no CPU, so that the driver has its own."""
    assert HEAD["rayStartParams"] == {"num-cpus": "0"}


def test_names_and_versions_agree() -> None:
    """Image, volume and Ray are those of the other files."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {g["template"]["spec"]["containers"][0]["image"] for g in (HEAD, WORKERS)}
    volume = yaml.safe_load((ROOT / "jobs/kubernetes/volume.yaml").read_text())
    claim = HEAD["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]

    assert images == {f"aobatch-ray:{version}"} == {*re.findall(r"--tag (\S+)", DOCKERFILE)}
    assert f"rayproject/ray:{CLUSTER['rayVersion']}-" in DOCKERFILE
    assert claim == volume["metadata"]["name"]
