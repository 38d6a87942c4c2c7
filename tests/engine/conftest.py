"""Requests and engines for the engine's laws."""

import json
from collections.abc import Callable

import pytest

from aobatch.api.request import Limits, Parser, Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import Result
from aobatch.testing import Script, random_script, scripted_engine

Complete = Callable[..., list[Result]]


@pytest.fixture
def parse() -> Callable[..., list[Request]]:
    """Give a function from bodies to requests."""

    def parse_bodies(*bodies: dict[str, object]) -> list[Request]:
        parser = Parser({}, Limits())
        requests = [
            parser.parse(line, json.dumps(body).encode()) for line, body in enumerate(bodies, 1)
        ]
        assert all(isinstance(request, Request) for request in requests), requests
        return requests  # type: ignore[return-value]

    return parse_bodies


@pytest.fixture
def complete(parse: Callable[..., list[Request]]) -> Complete:
    """Give a function that computes bodies on a scripted engine, results in the order of lines."""

    def complete_bodies(
        *bodies: dict[str, object],
        script: Script = random_script,
        config: EngineConfig | None = None,
    ) -> list[Result]:
        results = list(scripted_engine(script, config).run(parse(*bodies)))
        return sorted(results, key=lambda result: result.request.line)

    return complete_bodies
