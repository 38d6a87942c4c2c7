"""Run a job with the lowest versions that pyproject.toml says will do: `make lowest-test`.

    python tests/lowest_versions.py FOLDER

FOLDER becomes an environment with these versions, of the package itself and then of its extras.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("metrics", "report", "serve", "remote")
LINES = (
    {"prompt": "a b c", "max_tokens": 5, "logprobs": 2, "echo": True, "temperature": 0},
    {"prompt": ["x", "y"], "n": 2, "seed": 1, "stream": True, "top_p": 0.9},
    {"prompt": "z", "max_tokens": 4, "structured_outputs": {"choice": ["a", "b"]}},
)


def floors(*extras: str) -> list[str]:
    """Give the requirements of the package, or of extras of it, with the lowest versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    named = [line for extra in extras for line in optional[extra]] or project["dependencies"]
    return [re.sub(r">=([^,]+).*", r"==\1", line) for line in named]


def builder() -> list[str]:
    """Give what builds the package, in its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [line.replace(">=", "==") for line in project["build-system"]["requires"]]


class Lowest:
    """An environment of lowest versions, and a folder in which commands run."""

    def __init__(self, environment: Path, folder: Path) -> None:
        venv.create(environment, clear=True, with_pip=True)
        self._python = environment.absolute() / "bin/python"
        self._folder = folder
        self._variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        self._variables["AOBATCH_MODELS"] = str(folder / "models")

    def install(self, requirements: list[str], pinned: list[str]) -> None:
        """Install packages, and nothing that contradicts what is pinned."""
        constraints = self._folder / "constraints.txt"
        constraints.write_text("\n".join(pinned), encoding="utf-8")
        quiet = ("--quiet", "--disable-pip-version-check")
        self._run("pip", "install", *quiet, "--constraint", str(constraints), *requirements)

    def job(self, *options: str) -> None:
        """Make a model, and let it answer the lines in every way that packages have a part in."""
        model = self._folder / "models/tiny"
        if not model.exists():
            self._run("aobatch", "models", "import", str(ROOT / "tests/data/tiny-llama"), "tiny")
        self._run("aobatch", "doctor")
        lines = "".join(f"{json.dumps(line)}\n" for line in LINES)
        (self._folder / "in.jsonl").write_text(lines, encoding="utf-8")
        self._run("aobatch", "validate", "in.jsonl", "-m", "tiny")
        for output in ("out.jsonl.gz", "out.parquet"):
            run = ("aobatch", "run", "in.jsonl", "-m", "tiny", "-o", output, "--restart")
            self._run(*run, *options)
        self._run("aobatch", "report", "out.parquet")

    def command(self, *words: str) -> None:
        """Run a command of aobatch."""
        self._run("aobatch", *words)

    def _run(self, *words: str) -> None:
        command = [str(self._python), "-m", *words]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def main(environment: Path) -> None:
    """Run the job with the package alone, then with its extras."""
    with tempfile.TemporaryDirectory() as folder:
        lowest = Lowest(environment, Path(folder))
        lowest.install([*floors(), *builder()], floors())
        lowest.install(["--no-deps", "--no-build-isolation", str(ROOT)], [])
        lowest.job()
        # What the extras need may be newer than what the package itself does with.
        lowest.install([*floors(*EXTRAS), "tokenizers"], floors(*EXTRAS))
        lowest.job("--metrics-file", "m.prom")
        lowest.command("report", "out.parquet", "--html", "page.html")
    sys.stdout.write(f"a job runs with the lowest versions, in {environment}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
