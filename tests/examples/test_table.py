"""Laws of jobs/summaries.parquet: it is what the script writes, and small."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

JOBS = Path(__file__).parents[2] / "jobs"


def test_committed_table_is_what_the_script_writes(tmp_path: Path) -> None:
    """Whoever changes the texts finds the table changed."""
    written = tmp_path / "written.parquet"
    subprocess.run([sys.executable, JOBS / "library/make_table.py", written], check=True)

    committed = pq.read_table(JOBS / "summaries.parquet")

    assert committed.equals(pq.read_table(written))
    assert (JOBS / "summaries.parquet").stat().st_size < 5_000
    assert committed.column_names == ["id", "topic", "text"]
