"""Laws of --template: rows of data as requests, with all that the command line says of them."""

import json
from pathlib import Path

import pytest
from fake_command import Invoke

pytestmark = pytest.mark.usefixtures("backend")


def test_the_command_writes_prompts_of_a_table(invoke: Invoke, tmp_path: Path) -> None:
    """A template in a file, a chat and a system message; another template is another job."""
    (tmp_path / "a.csv").write_text("id,text\n1,x\n2,y\n")
    (tmp_path / "prompt.txt").write_text("Say {text}\n")
    invoke("run", "a.csv", "--template", "@prompt.txt", "--column", "custom_id=id", "-o", "b.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [a["custom_id"] for a in answers] == ["1", "2"]
    assert answers[0]["choices"][0]["text"] == "[Say x]"

    invoke("run", "a.csv", "--template", "Tell {text}", "-o", "b.jsonl")
    assert "[Tell x]" in (tmp_path / "b.jsonl").read_text()
    invoke("run", "a.csv", "--template", "{text}", "--chat", "--system", "S", "-o", "c.jsonl")
    first = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])
    assert first["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chat",), "--chat and --system are for rows"),
        (("--template", "{text}", "--system", "S"), "add --chat"),
        (("--template", "@none.txt"), "cannot be read"),
        (("--template", "{text}", "--column", "prompt=text"), "leave one of them out"),
        (("--template", "{text"), "the template has '{'"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    options: tuple[str, ...], message: str, invoke: Invoke, tmp_path: Path
) -> None:
    """Exit code 2, before anything is opened."""
    (tmp_path / "a.csv").write_text("text\nx\n")

    assert message in invoke("run", "a.csv", *options, "-o", "b.jsonl", code=2).stderr
