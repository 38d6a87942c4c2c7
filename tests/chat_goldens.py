"""What transformers writes for the templates of real models: tests/data/chat/goldens.json.

Written once, by an environment of its own that has transformers and jinja2:

    python tests/chat_goldens.py
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "models"))

from chat_files import BOS, CONVERSATIONS, EOS, FOLDER, GOLDENS, NAMES, write_tokenizer


def golden(tokenizer: Any, messages: list[dict[str, str]]) -> dict[str, Any]:  # noqa: ANN401
    """Give the text and a digest of the ids, or that the template refuses the conversation."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001 - whatever a template raises
        return {"refused": str(error)[:60]}
    ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    ids = ids["input_ids"] if hasattr(ids, "keys") else ids
    return {"text": text, "num_ids": len(ids), "ids": digest_of(ids)}


def digest_of(ids: list[int]) -> str:
    """Give a short name of a list of ids."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def main() -> None:
    """Write the goldens of all formats."""
    from transformers import PreTrainedTokenizerFast

    goldens = {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            path = write_tokenizer(name, Path(folder) / "tokenizer.json")
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_file=str(path), bos_token=BOS.get(name, "<s>"), eos_token=EOS.get(name)
            )
        if name not in EOS:
            tokenizer.eos_token = "</s>"
        tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        goldens[name] = [golden(tokenizer, messages) for messages in CONVERSATIONS]
    text = json.dumps(goldens, ensure_ascii=False, indent=0, sort_keys=True)
    GOLDENS.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
