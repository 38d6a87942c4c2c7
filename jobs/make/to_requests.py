"""Write a request for each line of a text that is not blank.

    python3 to_requests.py TEXT PROMPT > REQUESTS

The prompt is a file in which {text} stands for the line. The custom_id is the line's number.
"""

import json
import sys
from pathlib import Path


def main(text: Path, prompt: Path) -> None:
    """Write the requests to standard output."""
    template = prompt.read_text(encoding="utf-8").removesuffix("\n")
    for number, line in enumerate(text.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            request = {
                "custom_id": str(number),
                "prompt": template.replace("{text}", line.strip()),
                "max_tokens": 48,
                "temperature": 0,
                "stop": "\n",
            }
            sys.stdout.write(f"{json.dumps(request)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
