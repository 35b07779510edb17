"""
Answers that an application speaks by itself on a connection that it took over.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from bridge.web.spoken import SpokenAnswer
from tests.web.served import on_loop, serving

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def said(spoken: SpokenAnswer, *data: bytes) -> list[tuple[str, Any]]:
    messages = [message for some in data for message in spoken.heard(some)]
    return [(m["type"].rpartition(".")[2], m.get("status", m.get("body"))) for m in messages]


@pytest.mark.parametrize("cut", [len(ANSWER), len(ANSWER) + 20], ids=["whole", "within-the-second"])
def test_only_the_first_answer_counts(cut: int) -> None:
    """
    ASGI has one answer to a request: what an application says behind its first one is
    dropped, in whatever pieces it comes, and whether it is HTTP or not.
    """
    spoken = SpokenAnswer(frozenset())
    both = ANSWER + ANSWER.replace(b"200", b"500")

    assert [("start", 200), ("body", b"hi")] == said(spoken, both[:cut], both[cut:], b"\0no HTTP")
    assert spoken.over


def test_what_follows_a_close_is_no_error() -> None:
    """
    An answer that says it is the last one is complete, whatever stands behind it.
    """
    spoken = SpokenAnswer(frozenset())
    last = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    assert [("start", 200), ("body", b"hi")] == said(spoken, last + b"\0no HTTP")


def test_answer_to_head_has_no_body() -> None:
    """
    What it says of its length is the GET's; nothing follows, and it isn't waited for.
    """
    spoken = SpokenAnswer(frozenset(), to_head=True)

    assert [("start", 200)] == said(spoken, ANSWER)
    assert spoken.over


@on_loop
async def test_head_on_a_connection_taken_over() -> None:
    """
    Its body was waited for until the application hung up, and the requests behind it with it.
    """

    class Takes(Resource):
        isLeaf = True

        def render_HEAD(self, request: Request) -> int:
            transport: Any = request.channel.transport  # type: ignore[union-attr]
            transport.protocol = Owner()
            transport.write(ANSWER[:-2])
            return NOT_DONE_YET

    class Owner:
        def dataReceived(self, data: bytes) -> None: ...

        def connectionLost(self, reason: Any) -> None: ...

    async with serving(Site(Takes()), hot=False) as served:
        client = await served.connect()
        head = b"HEAD / HTTP/1.1\r\nHost: x\r\n"
        await client.send(head + b"\r\n" + head + b"Connection: close\r\n\r\n")

        answers = await asyncio.wait_for(client.rest(), 5)

    assert 2 == answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"content-length: 2\r\n")
    assert answers.endswith(b"\r\n\r\n")
