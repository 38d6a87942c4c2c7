"""Laws of making a model: one process at a time, in one piece, with nothing left behind."""

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
