"""The command with --executor ray as a process whose descendants can be found."""

import os
import shutil
import sqlite3
import subprocess
import uuid
from contextlib import closing
from pathlib import Path

from ray_jobs import Product, read_product
from waiting import HANG_SECONDS, wait_until

from aobatch.executors.ray.reaper import open_files


class RayCommand:
    """A run of the command whose processes, however deep, can be found."""

    def __init__(self, command: Path, folder: Path, *options: str) -> None:
        self.output = folder / "out.jsonl"
        self.session = ""
        """The folder of its Ray, once it has results."""
        self._mark = f"AOBATCHTEST={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        ray = ("--executor", "ray", "--workers", "2")
        kind = ("--max-num-seqs", "64") if "local" in options else ray
        given = [option for option in options if option != "local"]
        files = [folder / "in.jsonl", "-o", self.output]
        self.process = subprocess.Popen(
            [command, "run", *files, "--max-failures", "100%", *given, *kind],
            env=os.environ | {name: value, "SOURCE_DATE_EPOCH": "1700000000"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; give exit code and what was printed."""
        printed = self.process.communicate(timeout=HANG_SECONDS)
        return self.process.returncode, *printed

    def kill(self) -> None:
        """End it as nobody expects, once there are results."""
        self.wait_for_results()
        self.process.kill()
        self.finish()

    def processes(self) -> list[int]:
        """Give all processes that the run has started and itself."""
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_own(folder)]

    def wait_for_results(self) -> None:
        """Wait until this run has added results to the ledger."""
        before = self.count_results()
        wait_until(lambda: self.count_results() > before, self.process)
        self.session = self._find_session()

    def wait_for_processes_to_end(self) -> None:
        """Wait for all that the run has started."""
        wait_until(lambda: not self.processes())

    def count_results(self) -> int:
        """Count what the ledger has."""
        path = self.output.with_name("out.jsonl.aobatch") / "ledger.sqlite3"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def _is_own(self, folder: Path) -> bool:
        """Say whether a process has the mark in its environment, or a file of the session open.

        Ray writes over the environments of some of its processes.
        """
        try:
            if "State:\tZ" in (folder / "status").read_text():
                return False
            links = open_files(int(folder.name))
            if self.session and any(link.startswith(self.session) for link in links):
                return True
            return self._mark.encode() in (folder / "environ").read_bytes()
        except OSError:
            return False

    def _find_session(self) -> str:
        links = open_files(self.process.pid)
        found = {"/".join(link.split("/")[:3]) for link in links if "/aobatch-ray-" in link}
        return found.pop() if found else ""


def computed_locally(command: Path, folder: Path, *options: str) -> Product:
    """Run the same command without Ray in a folder of its own."""
    (folder / "local").mkdir()
    shutil.copy(folder / "in.jsonl", folder / "local")
    assert RayCommand(command, folder / "local", "local", *options).finish()[0] == 0
    return read_product(folder / "local/out.jsonl")
