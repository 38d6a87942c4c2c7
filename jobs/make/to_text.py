"""Write the answers to the lines of a text as a text with the same lines.

    python3 to_text.py ANSWERS TEXT > TRANSLATION

Lines that are blank, or failed, are empty.
"""

import json
import sys
from pathlib import Path


def main(answers: Path, text: Path) -> None:
    """Write the translation to standard output."""
    lines = [""] * len(text.read_text(encoding="utf-8").split("\n"))
    with answers.open(encoding="utf-8") as stream:
        for answer in map(json.loads, stream):
            number = int(answer["custom_id"])
            if "error" in answer:
                sys.stderr.write(f"{text}:{number}: {answer['error']['message']}\n")
            else:
                lines[number - 1] = answer["choices"][0]["text"].strip()
    sys.stdout.buffer.write("\n".join(lines).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
