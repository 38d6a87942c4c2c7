"""Laws of jobs/kubernetes: the schema, what the manifests promise, what the image is made of."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml

from aobatch.cli.run import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "jobs/kubernetes"
MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))
JOBS = [path for path in MANIFESTS if path.name != "volume.yaml"]
DOCKERFILE = re.sub(r"\\\n", " ", (EXAMPLES / "Dockerfile").read_text())
Object = dict[str, object]


def load(path: Path) -> Object:
    """Read a manifest."""
    (found,) = yaml.safe_load_all(path.read_text())
    return found


def pod(path: Path) -> tuple[Object, Object]:
    """Give the pod of a job, and its only container."""
    spec = load(path)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


@pytest.mark.parametrize("version", ["1.33", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_follow_the_schema(path: Path, version: str) -> None:
    """Kubernetes knows every field, in the first version that has them all and in a new one."""
    kubernetes_validate.validate(load(path), version, strict=True)


def test_a_wrong_manifest_does_not_follow_the_schema() -> None:
    """The validator is no rubber stamp: a field in the wrong place is an error."""
    wrong = load(EXAMPLES / "job.yaml")
    wrong["spec"]["restartPolicy"] = "Never"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_pods_may_do_next_to_nothing(path: Path) -> None:
    """No root, no privileges, no writable root, no token of the cluster, a bound on memory.

    These are the rules of the restricted pod security standard, and more.
    """
    spec, container = pod(path)

    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (
        container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    )
    # A stop takes five seconds at most, and podFailurePolicy asks for Never.
    assert 5 < spec["terminationGracePeriodSeconds"] <= 30
    assert spec["restartPolicy"] == "Never"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_names_agree(path: Path) -> None:
    """The claim, the image and the container of the policy are those of the other files."""
    spec, container = pod(path)
    image = re.search(r"--tag (\S+)", DOCKERFILE)
    rules = load(path)["spec"]["podFailurePolicy"]["rules"]
    named = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    claims = {
        volume.get("persistentVolumeClaim", {}).get("claimName") for volume in spec["volumes"]
    }

    assert image is not None
    assert container["image"] == image[1]
    assert named == {container["name"]}
    assert load(EXAMPLES / "volume.yaml")["metadata"]["name"] in claims
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"] == f"aobatch:{version}"


def test_there_are_as_many_pods_as_shards() -> None:
    """The job's completions, the count of its --shard and the pattern of the merge agree."""
    job = load(EXAMPLES / "job.yaml")["spec"]
    (shard,) = [text for text in pod(EXAMPLES / "job.yaml")[1]["args"] if "--shard" in text]
    *_, script = pod(EXAMPLES / "merge.yaml")[1]["command"]

    assert job["completionMode"] == "Indexed"
    assert shard == f"--shard=auto/{job['completions']}"
    assert f"-*-of-{job['completions']:05d}.jsonl" in script


def test_the_pods_give_the_answers_of_a_whole_run(
    tmp_path: Path, command: Path, tiny_home: Path
) -> None:
    """The containers' commands, one an index and then the merge, leave the bytes of one run."""
    lines = [f'{{"prompt": "p{number}", "max_tokens": 4}}\n' for number in range(30)]
    for name in ("requests", "whole"):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    environment = os.environ | {
        "AOBATCH_MODELS": str(tiny_home),
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "SOURCE_DATE_EPOCH": "1700000000",
    }

    def execute(arguments: list[str], **variables: str) -> None:
        # The volume and the file of the last message are where pods have them, and only there.
        placed = [text.replace("/data/", f"{tmp_path}/") for text in arguments]
        placed = [text.replace("/dev/termination-log", f"{tmp_path}/message") for text in placed]
        subprocess.run(placed, env=environment | variables, check=True)

    _, container = pod(EXAMPLES / "job.yaml")
    for index in range(load(EXAMPLES / "job.yaml")["spec"]["completions"]):
        execute(["aobatch", *container["args"]], JOB_COMPLETION_INDEX=str(index))
        assert json.loads((tmp_path / "message").read_text())["exit_code"] == 0
    execute(pod(EXAMPLES / "merge.yaml")[1]["command"])

    execute(["aobatch", "run", "/data/whole.jsonl", "--quiet"])
    merged = (tmp_path / "requests.out.jsonl").read_bytes()
    assert merged == (tmp_path / "whole.out.jsonl").read_bytes()
    assert len(merged.splitlines()) == 30


def test_threads_are_those_that_the_pod_asks_for() -> None:
    """A pod sees all cores of its node; it is told to use its own."""
    _, container = pod(EXAMPLES / "job.yaml")

    assert f"--threads={container['resources']['requests']['cpu']}" in container["args"]


def test_the_options_exist() -> None:
    """Every option of the pods is one of the command."""
    known = {name for option in run.params for name in option.opts}
    arguments = pod(EXAMPLES / "job.yaml")[1]["args"]
    named = {text.split("=")[0] for text in arguments if text.startswith("-")}

    assert isinstance(run, click.Command)
    assert named - known == set()


def test_the_image_is_small_and_needs_no_root() -> None:
    """Two stages, of which the last copies from the first alone, and a user with a number."""
    *_, last = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    steps = re.findall(r"^([A-Z]+) +(.*)$", last, re.MULTILINE)

    assert len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE)) == 2
    assert {name for name, _ in steps} <= {"COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert all(text.startswith("--from=build ") for name, text in steps if name == "COPY")
    (user,) = [text for name, text in steps if name == "USER"]
    context = pod(EXAMPLES / "job.yaml")[0]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert int(context["runAsUser"]) > 0


def test_the_image_is_made_of_what_there_is() -> None:
    """Each file that is copied exists and is sent to the builder; the entry point is the script."""
    build, *_ = DOCKERFILE.split("FROM python")[1:]
    copied = {
        name
        for line in re.findall(r"^COPY (.*) \S+$", build, re.MULTILINE)
        for name in line.split()
    }
    sent = {
        line.removeprefix("!")
        for line in (EXAMPLES / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert copied == sent
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE) == list(scripts)
    assert "--require-hashes" in DOCKERFILE
