"""Write each line of a text that is not blank as data: its number, and the line.

    python3 to_requests.py TEXT > LINES

A template, prompt.txt, makes requests of them.
"""

import json
import sys
from pathlib import Path


def main(text: Path) -> None:
    """Write the lines to standard output."""
    for number, line in enumerate(text.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            sys.stdout.write(f"{json.dumps({'custom_id': str(number), 'text': line.strip()})}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
