"""
A render method may be a coroutine: answered, failed, and left, on both roads.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from bridge import async_render
from tests.web.served import on_loop, serving, until

# Twisted warns of its own error pages.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:twisted", "ignore:twisted:DeprecationWarning")


class _Page(Resource):
    isLeaf = True

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    @async_render
    async def render_GET(self, request: Any) -> Any:
        return await self.answer(request)


async def _hello(request: Any) -> bytes:
    await asyncio.sleep(0)
    return b"hello " + request.args[b"name"][0]


async def _by_itself(request: Any) -> int:
    request.write(b"by itself")
    request.finish()
    return NOT_DONE_YET


async def _broken(request: Any) -> bytes:
    raise LookupError("a broken page")


async def _unsupported(request: Any) -> bytes:
    raise UnsupportedMethod((b"POST",))


async def _text(request: Any) -> str:
    return "not bytes"


@on_loop
async def test_what_a_coroutine_returns_is_the_answer(road: bool) -> None:
    """
    With its length, and for HEAD without its body, as Twisted writes what a method returns.
    """
    async with serving(Site(_Page(_hello)), hot=road) as served:
        client = await served.connect()

        status, headers, body = await client.get("/?name=you")
        assert (200, "9", b"hello you") == (status, headers["content-length"], body)
        await client.send(b"HEAD /?name=you HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 9" in head.title()


@on_loop
async def test_a_coroutine_may_answer_by_itself(road: bool) -> None:
    """
    NOT_DONE_YET means what it means everywhere: the coroutine has seen, or sees, to it.
    """
    async with serving(Site(_Page(_by_itself)), hot=road) as served:
        client = await served.connect()

        assert (200, b"by itself") == (await client.get("/"))[::2]


@on_loop
async def test_what_a_coroutine_raises_is_answered_as_under_twisted(road: bool) -> None:
    """
    500 for an error and for what isn't bytes; 405 with Allow where the method isn't supported. Seen to hang without
    the errback.
    """
    for answer, expected in ((_broken, 500), (_text, 500), (_unsupported, 405)):
        async with serving(Site(_Page(answer)), hot=road) as served:
            client = await served.connect()

            status, headers, _ = await client.get("/")
            assert expected == status
            assert ("POST" if expected == 405 else None) == headers.get("allow")


@on_loop
async def test_a_client_that_leaves_cancels_the_coroutine(road: bool) -> None:
    """
    Nobody waits for the answer any more, so the work ends, and its clean-up runs.
    """
    began = asyncio.Event()
    seen: list[str] = []

    async def endless(request: Any) -> bytes:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        raise AssertionError

    async with serving(Site(_Page(endless)), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await began.wait()

        client.writer.close()
        await until(lambda: seen)

    assert ["cancelled"] == seen
