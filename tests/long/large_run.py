"""Laws of large models: `make large-test` runs them, `make test` does not.

They have random weights, and take 60 GB below AOBATCH_LARGE, or where pytest keeps its files.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from large_models import SHAPES, write_model

from aobatch.models.store.catalogue import ensure
from aobatch.models.store.folder import DATA, open_folder
from aobatch.runners.scoring import score_texts

GIB = 2**30
LIMITS = {"1b": (4, 3), "3b": (7, 6), "8b": (12, 40)}
"""GiB of anonymous memory and of disk that a conversion may take."""
KILLED_AT = (0.1, 0.5, 0.9)
"""Parts of the time of a whole conversion."""


@pytest.fixture(scope="module", params=[*SHAPES])
def shape(request: pytest.FixtureRequest) -> str:
    """Give the name of each shape."""
    return request.param


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with much room."""
    named = os.environ.get("AOBATCH_LARGE")
    return Path(named) if named else tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def source(shape: str, home: Path) -> Iterator[Path]:
    """Write a model in parts as published, which goes when it is converted."""
    tokenizer = ensure(None, lambda *_: None, score_texts).tokenizer
    folder = write_model(SHAPES[shape], home / f"{shape}-published", tokenizer)
    yield folder
    for path in (*folder.iterdir(), *(home / "models" / shape).glob("*")):
        path.unlink()


def command(home: Path, *words: object) -> "subprocess.Popen[bytes]":
    """Start aobatch with models of its own."""
    environment = {**os.environ, "AOBATCH_MODELS": str(home / "models")}
    return subprocess.Popen([sys.executable, "-m", "aobatch", *map(str, words)], env=environment)


def watched(process: "subprocess.Popen[bytes]", folder: Path) -> dict[str, float]:
    """Wait for a process: its seconds, and GiB at its peak, its own and those of a folder."""
    started, before, peak = time.monotonic(), used(folder), {"anonymous": 0.0, "disk": 0.0}
    while process.poll() is None:
        with suppress(OSError, TypeError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            anonymous = int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]
            peak["anonymous"] = max(peak["anonymous"], anonymous / GIB)
        peak["disk"] = max(peak["disk"], (used(folder) - before) / GIB)
        time.sleep(0.2)
    assert process.returncode == 0
    return peak | {"seconds": time.monotonic() - started}


def used(folder: Path) -> int:
    """Count the bytes of all files that are there."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def test_a_large_model_is_converted_and_answers(shape: str, source: Path, home: Path) -> None:
    """It takes little memory and disk, a kill leaves nothing, and 16 requests are answered."""
    models = home / "models"
    models.mkdir(exist_ok=True)
    taken = watched(command(home, "models", "import", source, shape), models)
    sys.stderr.write(f"\n{shape}: {taken}\n")
    assert taken["anonymous"] <= LIMITS[shape][0]
    assert taken["disk"] <= LIMITS[shape][1]
    digest = open_folder(models / shape).manifest.digest

    for part in KILLED_AT:
        process = command(home, "models", "import", source, shape)
        time.sleep(part * taken["seconds"])
        process.kill()
        process.wait()
        assert open_folder(models / shape).manifest.digest == digest

    job = home / f"{shape}.jsonl"
    lines = ({"prompt": f"Place {i} of 16 is", "max_tokens": 32} for i in range(16))
    job.write_text("".join(json.dumps(line | {"ignore_eos": True}) + "\n" for line in lines))
    ran = watched(command(home, "run", job, "--model", shape, "--quiet"), home)
    sys.stderr.write(f"{shape}, 16 requests: {ran}\n")
    answers = [json.loads(x) for x in job.with_suffix(".out.jsonl").read_text().splitlines()]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [32] * 16
    assert ran["anonymous"] <= 1.5 * (models / shape / DATA).stat().st_size / GIB + 1
