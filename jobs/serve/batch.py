"""A batch from upload to answers with OpenAI's SDK: batch.py URL INPUT OUTPUT."""

import os
import sys
import time
from pathlib import Path

import openai


def main(url: str, source: str, target: str) -> None:
    """Upload, begin, wait, download; the key is in OPENAI_API_KEY."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    file = client.files.create(file=Path(source), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    for error in (batch.errors and batch.errors.data) or []:
        sys.stderr.write(f"line {error.line}: {error.code}: {error.message}\n")
    if batch.output_file_id is None:
        sys.exit(f"the batch is {batch.status} without an answer")
    client.files.content(batch.output_file_id).write_to_file(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
