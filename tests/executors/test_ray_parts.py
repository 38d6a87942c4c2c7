"""Laws of the parts of a job of Ray that need no Ray."""

import json
from collections.abc import Iterator
from threading import Timer

import pytest

from aobatch.api.request import Limits, Parser, Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.config import EngineStatistics
from aobatch.engine.streaming import Delta
from aobatch.errors import RequestError
from aobatch.executors.ray.backend import share
from aobatch.executors.ray.driver import Backlog, Streams
from aobatch.executors.ray.worker import (
    Buffer,
    Failure,
    Order,
    Outcome,
    Piece,
    Reply,
    decode_order,
    decode_reply,
    encode,
)

USAGE = Usage(1, 2, 3)
BODIES = [
    {"prompt": "a", "logit_bias": {"5": -1.5}, "stop": ["x"], "seed": 2**63 - 1},
    {"prompt": [[1, 2], [3]], "temperature": 0.1 + 0.2, "top_k": 4, "stop_token_ids": [9]},
    {"prompt": ["春", ""], "echo": True, "logprobs": 3, "suffix": "\ud7ff", "user": "ada"},
]


def parse(*bodies: dict[str, object]) -> list[Request]:
    """Give the requests of bodies."""
    parser = Parser({}, Limits())
    lines = enumerate(bodies, 1)
    requests = [parser.parse(number, json.dumps(body).encode()) for number, body in lines]
    assert all(isinstance(request, Request) for request in requests), requests
    return requests  # type: ignore[return-value]


def numbered(count: int) -> list[Request]:
    """Give so many requests."""
    return parse(*[{"prompt": f"p{number}"} for number in range(count)])


def test_requests_and_results_arrive_as_they_were_sent() -> None:
    """Every field, float and error is the same on the other side."""
    requests = parse(*BODIES)
    error = RequestError("Too long.", code="context_length_exceeded", param="prompt")
    choice = Choice("é", 1, None, "stop")
    done, failed = (
        Outcome("k", (choice,), USAGE, None, (0.1, 0.2)),
        Outcome("m", (), USAGE, error, (1.0, 0.0)),
    )
    items = [Piece("k", choice), done, failed, Failure("x", lacks_memory=True)]

    order = decode_order(encode(Order(requests, 1.0, 0.5)))
    seen = EngineStatistics(decode_steps=2, decode_seconds=0.5)
    reply = decode_reply(encode(Reply(items, seen)))

    assert order == Order(requests, 1.0, 0.5)
    assert vars(reply.items[2].error) == vars(error)
    reply.items[2] = failed
    assert reply == Reply(items, seen)


@pytest.mark.parametrize(
    ("sizes", "workers", "cpus", "expected"),
    [
        ([2], 1, None, (2, 1)),
        ([2], 2, None, (1, 2)),
        ([2], 5, None, (1, 2)),
        ([64], 8, None, (8, 8)),
        ([8, 8, 8], 3, None, (8, 1)),
        ([8, 8, 8], 4, None, (4, 2)),
        ([0, 16, 4], 3, None, (5, 3)),
        ([0, 16, 4], 5, None, (4, 4)),
        ([64], 2, 4, (4, 2)),
        ([0], 1, None, (1, 1)),
    ],
)
def test_all_workers_find_room(
    sizes: list[float], workers: int, cpus: int | None, expected: tuple[int, int]
) -> None:
    """Each gets as many CPUs as leave room for the others, whatever nodes they are on."""
    assert share(sizes, workers, cpus) == expected


def test_requests_are_handed_out_once_and_again_if_they_come_back() -> None:
    """The source is read as it is asked for; what comes back goes first; the end is known."""
    requests = numbered(5)
    read: list[Request] = []

    def source() -> Iterator[Request]:
        for request in requests:
            read.append(request)
            yield request

    backlog = Backlog(source())
    first = backlog.take(2)
    assert (first, read) == (requests[:2], requests[:2])
    backlog.put_back(first[1:])
    assert backlog.take(4) == [requests[1], *requests[2:]]
    assert not backlog.is_done
    assert backlog.take(1) == []
    for request in requests:
        assert not backlog.is_done
        backlog.end(request.key)
    assert backlog.is_done


def test_two_deaths_make_a_request_suspect_unless_its_nodes_died() -> None:
    """A worker's death counts against what it had, the death of a whole node does not."""
    (request,) = numbered(1)
    backlog = Backlog([request])
    for node, alive, num_suspects in (
        ("a", {"b"}, 0),  # the node of the worker has gone with it
        ("a", {"a", "b"}, 0),
        ("b", {"b"}, 0),  # by now a is gone as well
        ("b", {"b"}, 1),
    ):
        assert backlog.take(1) == [request]
        backlog.note_death([request], node, alive)
        assert len(backlog.suspects) == num_suspects
    backlog.take(1)
    assert backlog.is_done


def test_pieces_that_come_again_are_passed_on_once() -> None:
    """A request that is computed twice adds only what the first time had not sent, by choice."""
    (request,) = numbered(1)
    heard: list[Delta] = []
    streams = Streams(heard.append)

    def send(*texts: tuple[int, str]) -> None:
        for index, text in texts:
            streams.add(request, Piece(request.key, Choice(text, index, None, None)))

    send((0, "a"), (1, "x"), (0, "b"))
    streams.begin_anew(request.key)
    send((1, "x"), (1, "y"), (0, "a"), (0, "b"), (0, "c"))

    assert [(d.choice.index, d.choice.text) for d in heard] == [
        (0, "a"),
        (1, "x"),
        (0, "b"),
        (1, "y"),
        (0, "c"),
    ]


def test_buffer_gives_requests_in_order_and_takes_back_the_last() -> None:
    """What the engine has not taken can be given to others."""
    requests = numbered(4)
    buffer = Buffer()
    waiting = buffer.requests()
    assert next(waiting) is None
    buffer.add(requests)

    assert next(waiting) == requests[0]
    assert buffer.give_back(2) == [requests[3].key, requests[2].key]
    assert [next(waiting), next(waiting)] == [requests[1], None]
    assert buffer.give_back(9) == []


def test_collecting_waits_for_the_first_result_or_a_failure() -> None:
    """A call returns with what there is, as soon as there is any."""
    buffer = Buffer()
    item, failure = Outcome("k", (), USAGE, None, (0.0, 0.0)), Failure("x", lacks_memory=False)
    assert buffer.collect(0.0, 0.0) == []
    Timer(0.05, lambda: buffer.items.put(item)).start()
    assert buffer.collect(600.0, 0.0) == [item]
    Timer(0.05, lambda: buffer.items.put(failure)).start()
    buffer.items.put(item)
    assert buffer.collect(600.0, 600.0) == [item, failure]
