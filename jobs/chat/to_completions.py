"""Turn chat requests of a batch file into completion requests for models with ChatML prompts.

    python3 jobs/chat/to_completions.py < chat.jsonl > completions.jsonl

Other lines stay as they are. A message that is no text is an error: no model here reads images.
"""

import json
import sys
from typing import Any

RENAMED = {"max_completion_tokens": "max_tokens"}


def to_completion(line: dict[str, Any]) -> dict[str, Any]:
    """Give the completion request of a line that asks for a chat."""
    if line.get("url") != "/v1/chat/completions":
        return line
    body = {RENAMED.get(name, name): value for name, value in line["body"].items()}
    turns = [_turn(message) for message in body.pop("messages")]
    # The number of alternatives has a name of its own in chats only.
    alternatives = body.pop("top_logprobs", 0)
    if body.pop("logprobs", False):
        body["logprobs"] = alternatives
    body["prompt"] = "".join(turns) + "<|im_start|>assistant\n"
    return {**line, "url": "/v1/completions", "body": body}


def _turn(message: dict[str, Any]) -> str:
    content = message["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    return f"<|im_start|>{message['role']}\n{content}<|im_end|>\n"


def main() -> None:
    """Read standard input, write standard output."""
    for line in sys.stdin.buffer:
        if line.strip():
            sys.stdout.write(f"{json.dumps(to_completion(json.loads(line)))}\n")


if __name__ == "__main__":
    main()
