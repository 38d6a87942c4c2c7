"""The documentation's own examples, taken out of its text; base URL and key are replaced."""

import re
from pathlib import Path
from typing import NamedTuple

TEXT = (Path(__file__).parents[1] / "data" / "completions-api.txt").read_text(encoding="utf-8")
URL, KEY = "https://aigc.aochengcloud.com", "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"


class Examples(NamedTuple):
    """Programs as the documentation has them."""

    curl: list[str]
    python: str
    """The client, a completion and a stream."""
    scenarios: str
    """Four calls of the same client."""
    node: str


def examples(url: str, key: str) -> Examples:
    """Give the examples for another server; indentation is put back where it was lost."""
    text = TEXT.replace(URL, url).replace(KEY, key)
    curl = re.findall(r"^curl .*?\n}'$", text, re.MULTILINE | re.DOTALL)
    python = re.search(
        r"^import openai\n.*?^print\(chunk\.[^\n]*\n", text, re.MULTILINE | re.DOTALL
    )
    node = re.search(r"^import OpenAI .*?console\.log[^\n]*\n", text, re.MULTILINE | re.DOTALL)
    calls = text[node.end() :] if node else ""
    scenarios = re.findall(r"(?ms)^response = client.*?^\)$", calls)
    assert python
    assert node
    assert (len(curl), len(scenarios)) == (3, 4)
    loop = "for chunk in stream:\n"
    return Examples(
        curl,
        python[0].replace(loop, f"{loop}    "),
        "\n".join(f"{call}\nprint(response.choices[0].text)" for call in scenarios),
        node[0],
    )
