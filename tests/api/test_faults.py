"""The errors that the engine and the catalogue report in the API's words."""

from aobatch.api.errors import (
    TokenNeed,
    context_length_exceeded,
    engine_crash,
    error_object,
    insufficient_memory,
    invalid_type,
    model_not_found,
    numerical_error,
)


def test_context_error_has_all_numbers() -> None:
    """The message tells limit, sum, prompt and completion, and param what to make smaller."""
    error = context_length_exceeded(2048, TokenNeed("prompt", 2000, 0, 100))

    assert (error.code, error.param, error.status_code) == (
        "context_length_exceeded",
        "max_tokens",
        400,
    )
    for number in ("2048 tokens", "2100 tokens", "2000 in your prompt", "100 for the completion"):
        assert number in error.message
    assert context_length_exceeded(2048, TokenNeed("prompt", 3000, 0, 0)).param == "prompt"


def test_unknown_model_is_not_found() -> None:
    """The message is the reason, of 400 characters at most; the status is 404."""
    error = model_not_found("x" * 500)

    assert (error.code, error.param, error.status_code) == ("model_not_found", "model", 404)
    assert error.message == f"{'x' * 399}…"


def test_engine_errors_are_the_servers() -> None:
    """What no change of the request can mend has status 500 and the type server_error."""
    expected = ("numerical_error", "engine_crash", "insufficient_memory")
    for error, code in zip(
        (numerical_error(), engine_crash(), insufficient_memory()), expected, strict=True
    ):
        assert (error.code, error.status_code) == (code, 500)
        assert error_object(error).type == "server_error"
        assert error.param is None


def test_json_types_are_named() -> None:
    """Each type of JSON has the name that messages use."""
    names = {
        "null": None,
        "a boolean": True,
        "an integer": 1,
        "a decimal number": 1.5,
        "a string": "a",
        "an array": [],
        "an object": {},
    }
    for name, value in names.items():
        assert f"but got {name} instead." in invalid_type(value, "x", "stop[1]").message
