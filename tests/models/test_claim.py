"""Laws of making a model: one process at a time, in one piece, with nothing left behind."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import HANG_SECONDS

from aobatch.errors import OutputError
from aobatch.models.store.making import claim, put_in_place, workspace

HOLDER = """
import sys, time
from pathlib import Path
from aobatch.models.store.making import claim, workspace
with claim(Path(sys.argv[1]), lambda *_: None), workspace(Path(sys.argv[1])) as work:
    (work / "half").write_bytes(b"x")
    print("held", flush=True)
    time.sleep(300)
"""


def ignore(*_: object) -> None:
    """Ignore how far a stage is."""


def test_second_process_waits_for_the_first(tmp_path: Path) -> None:
    """Of two that make the same model, the second begins when the first has ended, and says so."""
    target, heard, order = tmp_path / "m", threading.Event(), []

    def second() -> None:
        with claim(target, lambda stage, *_: (order.append(stage), heard.set())):
            order.append("second")

    with claim(target, ignore):
        thread = threading.Thread(target=second)
        thread.start()
        assert heard.wait(HANG_SECONDS)
        order.append("first")
    thread.join(HANG_SECONDS)

    assert [word for word in order if word in ("first", "second")] == ["first", "second"]
    assert "another process that makes m" in order[0]


def test_remains_of_a_killed_process_are_swept_away(tmp_path: Path) -> None:
    """A killed holder leaves no lock, and the next one removes its half-made folder."""
    target = tmp_path / "m"
    command = [sys.executable, "-c", HOLDER, target]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    (tmp_path / ".m~other").mkdir()
    assert len(list(tmp_path.glob(".m~*"))) == 2

    with claim(target, ignore):
        assert [path.name for path in tmp_path.glob(".m~*")] == [".m~other"]


def test_remains_of_any_model_are_swept_away_unless_it_is_being_made(tmp_path: Path) -> None:
    """A model that nobody makes again leaves nothing either, and one at work is left alone."""
    with claim(tmp_path / "busy", ignore), workspace(tmp_path / "busy") as work:
        (tmp_path / ".dead~abcdefgh").mkdir()
        with claim(tmp_path / "m", ignore):
            assert [path.name for path in tmp_path.glob(".*~*")] == [work.name]


def test_model_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Nothing of an older folder of that name is left."""
    target = tmp_path / "m"
    target.mkdir()
    (target / "old").touch()

    with claim(target, ignore), workspace(target) as work:
        (work / "new").mkdir()
        (work / "new" / "model.onnx").write_bytes(b"x")
        put_in_place(work / "new", target)

    assert [path.name for path in target.iterdir()] == ["model.onnx"]


KILLED = """
import json, os, pathlib, signal, sys
from aobatch.files import file_digest
from aobatch.models.convert import quality
from aobatch.models.store import catalogue
from aobatch.models.store.folder import DATA, open_folder
from aobatch.runners.scoring import score_texts

source, home = map(pathlib.Path, sys.argv[1:])
os.environ["AOBATCH_MODELS"] = str(home)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def make(precision, moment):
    rename = pathlib.Path.rename
    def progress(stage, done, total):
        if moment == stage and done >= total / 2:
            die()
    def renamed(path, other):
        found = rename(path, other)
        if (path.name, moment) in (("m", "between both"), ("model", "behind them")):
            die()
        return found
    pathlib.Path.rename = renamed
    catalogue.import_model(
        source, "m", precision=precision, progress=progress, scorer=score_texts
    )

def state():
    if not (home / "m").exists():
        return None
    folder = open_folder(home / "m")
    assert file_digest(folder.path / DATA) == folder.manifest.files[DATA].sha256
    return folder.manifest.precision

def forked(*args):
    child = os.fork()
    if not child:
        make(*args)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

text = quality.quality_text()[:2000]
quality.quality_text = lambda: text
for moment in json.loads(sys.stdin.readline()):
    assert state() == "fp32" or forked("fp32", "") == 0, "it could not be made"
    code = forked("int8", moment)
    print(json.dumps([moment, code, state()]), flush=True)
assert forked("int8", "") == 0, "it could not be made"
print(json.dumps([state(), sorted(path.name for path in home.iterdir())]))
"""
MOMENTS = {
    "converting to int8": "fp32",
    "computing in fp32": "fp32",
    "taking checksums": "fp32",
    "between both": None,
    "behind them": "int8",
}
"""When it is killed, and the precision of the model that is there then."""


def test_a_kill_leaves_the_former_model_or_the_new_one_or_none(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """Whenever a conversion is killed, no part of a model is there, and the next one sweeps up."""
    command = [sys.executable, "-c", KILLED, tiny_gguf, tmp_path]
    result = subprocess.run(
        command, input=json.dumps([*MOMENTS]), capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
    *killed, last = map(json.loads, result.stdout.splitlines())
    assert killed == [[moment, -9, there] for moment, there in MOMENTS.items()]
    assert last == ["int8", [".locks", "m"]]


def test_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Where models cannot be kept, the message says where that was tried."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(OutputError, match=r"models cannot be kept in .*file"),
        claim(tmp_path / "file" / "m", ignore),
    ):
        pass


def test_a_full_disk_is_told_with_the_place_of_the_model(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a conversion meets it, it ends with one sentence and leaves nothing."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path))
    command = f"ulimit -f 100; trap '' XFSZ; exec {sys.executable} -m aobatch models import"

    result = subprocess.run(
        ["bash", "-c", f"{command} {tiny_gguf} large"], capture_output=True, text=True
    )

    assert result.returncode == 74, result.stderr
    assert (
        f"{tmp_path / 'large'} cannot be written: File too large; make room and run again"
        in result.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
