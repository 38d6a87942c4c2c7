"""Laws of `aobatch complete`: a line's parameters are options, its answer standard output."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from aobatch.api.body import PARAMETERS
from aobatch.cli.complete import complete
from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder


@pytest.fixture
def ask(tiny_fp32: ModelFolder) -> Callable[..., Result]:
    """Give a function that completes on the tiny model."""

    def invoke(*arguments: str, standard_input: str | bytes | None = None) -> Result:
        command = ["complete", "--model", str(tiny_fp32.path), *arguments]
        return CliRunner().invoke(aobatch, command, input=standard_input)

    return invoke


def test_every_parameter_is_an_option() -> None:
    """No parameter of the table is missing, and prompt is the argument."""
    names = {parameter.name for parameter in complete.params}

    assert set(PARAMETERS) <= names


def test_the_text_is_that_of_the_response(ask: Callable[..., Result]) -> None:
    """Plain output, joined stream and the JSON's text are the same."""
    options = ("Hello", "--max-tokens", "8", "--temperature", "0", "--ignore-eos")
    response = json.loads(ask(*options, "--json").stdout)
    (choice,) = response["choices"]

    assert response["usage"]["completion_tokens"] == 8
    assert choice["text"] + "\n" == ask(*options).stdout == ask(*options, "--stream").stdout


def test_prompt_that_is_no_text_is_refused(ask: Callable[..., Result]) -> None:
    """Bytes that are not UTF-8 end with one sentence, however they come."""
    piped = ask("-", standard_input=b"caf\xe9")

    assert (piped.exit_code, piped.stdout) == (2, "")
    assert "standard input is not UTF-8: byte 4 cannot be decoded" in piped.stderr
    assert ask("caf\udce9").exit_code == 2


@pytest.mark.parametrize("piped", [b"once\n", b"once\r\n", b"\xef\xbb\xbfonce", b"once"])
def test_piped_prompt_is_what_was_written(ask: Callable[..., Result], piped: bytes) -> None:
    """The line end that echo adds, and a mark that cannot be seen, are no part of a prompt."""
    options = ("--max-tokens", "0", "--echo", "--json")

    def prompt_of(content: bytes) -> str:
        (choice,) = json.loads(ask("-", *options, standard_input=content).stdout)["choices"]
        return choice["text"]

    assert prompt_of(piped) == "once"
    assert prompt_of(b"once\n\n") == "once\n"


def test_values_are_json_or_words(ask: Callable[..., Result]) -> None:
    """Arrays and objects are read as JSON, words as they stand; the prompt may come by a pipe."""
    options = (
        "--stop",
        '["zz", "!"]',
        "--logit-bias",
        '{"5": -1}',
        "--suffix",
        "end",
        "--seed",
        "3",
    )
    outcome = ask("-", *options, "--n", "2", "--json", standard_input="piped")

    assert outcome.exit_code == 0, outcome.stderr
    assert len(json.loads(outcome.stdout)["choices"]) == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperature", "3", "Invalid 'temperature': decimal above maximum value."),
        ("--logprobs", "true", "Invalid type for 'logprobs': expected an integer"),
        ("--temperature", "NaN", "NaN is not a number of JSON"),
        ("--top-p", "1e999", "Infinity is not a number of JSON"),
        ("--suffix", "\udcff", "half of a surrogate pair"),
        ("--max-tokens", "100000", "maximum context length is 512 tokens"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    ask: Callable[..., Result], option: str, value: str, message: str
) -> None:
    """A bad parameter ends with code 2 and the documented message."""
    outcome = ask("Hello", option, value)

    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert outcome.stdout == ""


def test_unknown_model_ends_as_in_a_run(ask: Callable[..., Result]) -> None:
    """A model that is not there has the exit code that all commands give it."""
    outcome = ask("Hello", "--model", "gpt-9")

    assert (outcome.exit_code, outcome.stdout) == (69, "")
    assert "The model 'gpt-9' does not exist." in outcome.stderr


def test_a_chat_is_answered(ask: Callable[..., Result]) -> None:
    """A prompt is what a user says, a system message stands ahead, logprobs are those of chats."""
    options = ("Hello", "--chat", "--max-tokens", "4", "--temperature", "0", "--json")
    plain, told = (
        json.loads(ask(*options, *more).stdout)
        for more in ((), ("--system", "Be brief.", "--logprobs", "2"))
    )

    assert plain["object"] == "chat.completion"
    assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    tokens = told["choices"][0]["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * len(tokens)
    assert ask(*options[:-1]).stdout == plain["choices"][0]["message"]["content"] + "\n"


def test_what_chats_do_not_have_is_told(ask: Callable[..., Result]) -> None:
    """A system message without a chat, an echo of one, and a format that nobody knows."""
    for options, message in (
        (("--system", "S"), "add --chat"),
        (("--chat", "--echo"), "chats do not have it"),
        (("--chat-format", "chatlm"), "Did you mean 'chatml'?"),
    ):
        outcome = ask("Hello", *options)
        assert (outcome.exit_code, outcome.stdout) == (2, "")
        assert message in outcome.stderr


def test_an_empty_answer_of_a_model_that_chats_says_so(ask: Callable[..., Result]) -> None:
    """One line on standard error; an answer, or none that was asked for, says nothing."""
    ended = ask("Hello", "--temperature", "0", "--logit-bias", '{"0": 100}')

    assert (ended.exit_code, ended.stdout) == (0, "\n")
    assert "answers chats; try `aobatch complete --chat`" in ended.stderr
    assert "chats" not in ask("Hello", "--max-tokens", "0").stderr
