"""
GET /events on every target: what is streamed, from where it starts, and where it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.contract.patterns import matches
from tests.contract.runner import Runner
from tests.contract.streams import Stream
from tests.contract.wire import ask

Opener = Callable[..., Stream]


@pytest.fixture
def opened(runner: Runner) -> Iterator[Opener]:
    """
    Opens streams of the target, and closes them after the test. What the target was asked before is over by then: its
    end would come through a stream too.
    """
    runner.database.idle()
    streams: list[Stream] = []

    def open_stream(*headers: str) -> Stream:
        streams.append(Stream.open(runner.address, *headers))
        return streams[-1]

    yield open_stream
    for stream in streams:
        stream.close()
    runner.forget()


def log(runner: Runner, message: str) -> str:
    """
    Queue a task, wait for its end, and return its id.
    """
    captured: dict[str, str] = {}
    answer = ask(runner.address, "POST", f"/log?message={message}")
    assert matches('{"message":"log queued","task_id":"<uuid:t>"}', answer.body.decode(), captured)
    assert "SUCCESS" == runner.database.settle(captured["t"])
    return captured["t"]


def stored(runner: Runner, after: int) -> list[str]:
    """
    The blocks that a stream must bring for the events after one, read from the database.
    """
    rows = runner.database.query("SELECT * FROM events WHERE seq > ? ORDER BY seq", after)
    blocks = []
    for row in rows:
        data = {"id": row["task_id"], **{key: row[key] for key in ("name", "status", "attempts", "at")}}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        blocks.append(f"id: {row['seq']}\nevent: task\ndata: {text}")
    return blocks


def last_seq(runner: Runner) -> int:
    return int(runner.database.query("SELECT COALESCE(MAX(seq), 0) AS seq FROM events")[0]["seq"])


def test_a_stream_brings_what_happens_after_it_was_opened(runner: Runner, opened: Opener) -> None:
    """
    The head, the advice to reconnect, and then each change of a task, in order, and nothing of the past.
    """
    log(runner, "past")
    before = last_seq(runner)
    stream = opened()

    first = stream.block()
    log(runner, "present")
    events = [stream.event() for _ in range(3)]

    assert "http/1.1 200" in stream.head[0]
    assert "content-type: text/event-stream" in stream.head
    assert "cache-control: no-store" in stream.head
    assert not any(line.startswith(("content-length", "content-encoding")) for line in stream.head)
    assert "retry: 2000" == first
    assert stored(runner, before) == events


def test_a_stream_goes_on_after_the_last_event_that_was_seen(runner: Runner, opened: Opener) -> None:
    """
    With Last-Event-ID nothing is skipped and nothing comes twice, whatever happened in between.
    """
    before = last_seq(runner)
    stream = opened()
    stream.block()
    log(runner, "one")
    seen = stream.event()
    stream.close()
    log(runner, "two")
    number = int(seen.split("\n")[0].removeprefix("id: "))

    again = opened(f"Last-Event-ID: {number}")
    again.block()
    missed = [again.event() for _ in range(5)]
    log(runner, "three")
    live = [again.event() for _ in range(3)]

    assert stored(runner, before) == [seen, *missed, *live]


def test_a_stream_from_the_beginning_brings_everything(runner: Runner, opened: Opener) -> None:
    """
    Last-Event-ID 0 is the whole history, in the order of the commits.
    """
    log(runner, "last")
    expected = stored(runner, 0)

    stream = opened("Last-Event-ID: 0")
    stream.block()
    events = [stream.event() for _ in expected]

    assert expected == events


def test_two_streams_bring_the_same(runner: Runner, opened: Opener) -> None:
    """
    A reader takes nothing away from another one.
    """
    one, two = opened(), opened()
    one.block()
    two.block()

    log(runner, "both")

    assert [one.event() for _ in range(3)] == [two.event() for _ in range(3)]


def test_a_silent_stream_is_kept_alive(runner: Runner, opened: Opener) -> None:
    """
    A comment comes where nothing happens, so that neither side takes the other for gone.
    """
    stream = opened()
    stream.block()

    assert ": keep-alive" == stream.block()


def test_a_request_is_answered_while_streams_are_open(runner: Runner, opened: Opener) -> None:
    """
    Streams hold no worker: more of them than a pool has threads delay nobody.
    """
    for _ in range(60):
        opened()

    answer = ask(runner.address, "GET", "/")

    assert 200 == answer.status
