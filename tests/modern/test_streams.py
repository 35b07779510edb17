"""
Events, uploads and downloads: bounded memory, nothing skipped, and nothing left behind by a client that goes away.
"""

from __future__ import annotations

import asyncio
import resource
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from modern_fastapi.downloads import parse_range
from modern_fastapi.events import PAGE, RING
from modern_fastapi.schema import Task, Upload
from modern_fastapi.services import Services
from modern_fastapi.uploads import parse_options, plain_name
from tests.modern.application import Running, add, run, running, services

HEAD = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
TAIL = b"\r\n--XX--\r\n"


async def frames(stream: AsyncIterator[bytes], wanted: int) -> list[int]:
    """
    The numbers of the next events of a stream, at least `wanted` of them.
    """
    seen: list[int] = []
    while len(seen) < wanted:
        piece = await anext(stream)
        seen += [int(line[4:]) for line in piece.split(b"\n") if line.startswith(b"id: ")]
    return seen


async def many(made: Services, count: int) -> None:
    """
    `count` events, in one transaction.
    """
    async with made.database.write() as connection:
        await connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO events (task_id, name, status, attempts, at) SELECT 'x', 'x', 'PENDING', 0, '' FROM n",
            (count,),
        )


def test_streams_share_one_order(tmp_path: Path) -> None:
    """
    However far behind a client begins, it gets every event once, in order, up to the newest.

    Seen to fail with the ring asked before it reaches back far enough.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            source = asyncio.get_running_loop().create_task(made.events.run())
            await many(made, RING + 100)
            late, early = made.events.stream(RING, 60.0), made.events.stream(0, 60.0)
            assert list(range(RING + 1, RING + 101)) == await frames(late, 100)
            await many(made, 10)
            assert list(range(1, RING + 111)) == await frames(early, RING + 110)
            assert list(range(RING + 101, RING + 111)) == await frames(late, 10)
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)
            await late.aclose()  # type: ignore[attr-defined]
            await early.aclose()  # type: ignore[attr-defined]
            assert 0 == made.events.clients

    run(scenario())


def test_slow_readers_cost_next_to_nothing(tmp_path: Path) -> None:
    """
    A thousand clients that have stopped reading hold a place in the order each, whatever happens meanwhile.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            source = asyncio.get_running_loop().create_task(made.events.run())
            await many(made, 1)
            streams = [made.events.stream(0, 60.0) for _ in range(1000)]
            for stream in streams:
                await anext(stream)
                await anext(stream)
            await many(made, PAGE)
            await frames(streams[0], PAGE)
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            await many(made, 10 * RING)
            await frames(streams[0], RING)
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined]
        assert after - before < 4 * 1024 * 1024

    run(scenario())


def test_quiet_stream_says_that_it_lives(tmp_path: Path) -> None:
    """
    Where nothing happens a comment keeps the connection open, and draining ends it.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            stream = made.events.stream(0, 0.01)
            assert [b"retry: 2000\n\n", b": keep-alive\n\n"] == [await anext(stream), await anext(stream)]
            made.events.end()
            with pytest.raises(StopAsyncIteration):
                while True:
                    await anext(stream)

    run(scenario())


async def post(app: Any, pieces: Iterator[bytes], *, leaves: bool, length: int | None = None) -> list[dict[str, Any]]:
    """
    An upload as a server would pass it on; a client that leaves is an `http.disconnect`.
    """
    headers = [(b"content-type", b"multipart/form-data; boundary=XX")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/upload",
        "raw_path": b"/upload",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def left(one: Running) -> tuple[list[str], int, int]:
    """
    Files, rows and tasks that there are.
    """
    async with one.services.database.read() as connection:
        uploads = (await connection.execute(select(func.count()).select_from(Upload))).scalar() or 0
        tasks = (await connection.execute(select(func.count()).select_from(Task))).scalar() or 0
    return [path.name for path in one.services.files.path("uploads").iterdir()], uploads, tasks


@pytest.mark.parametrize("tenth", range(10))
def test_client_that_goes_away_leaves_nothing(tmp_path: Path, tenth: int) -> None:
    """
    At whatever point the connection breaks, no file, row or task of the upload is there.

    Seen to fail with the unlink taken out of `receive`.
    """
    body = HEAD + b"x" * 3_000_000 + TAIL
    cut = len(body) * tenth // 10
    pieces = [body[at : min(at + 65536, cut)] for at in range(0, cut, 65536)]

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            await post(one.app, iter(pieces), leaves=True)
            assert ([], 0, 0) == await left(one)

    run(scenario())


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """
    Where the disk takes no more, the upload is a 500, and its beginning does not stay on the full disk.

    Seen to fail with a plain close before the unlink: it writes once more, and raises.
    """
    body = HEAD + b"x" * 3_000_000 + TAIL

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
            try:
                answer = await post(
                    one.app, iter([body[at : at + 65536] for at in range(0, len(body), 65536)]), leaves=False
                )
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert 500 == answer[0]["status"]
            assert ([], 0, 0) == await left(one)

    run(scenario())


def test_endless_upload_stops_at_the_limit(tmp_path: Path) -> None:
    """
    A body without a length is refused where it passes the limit, with flat memory and an empty folder.
    """
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield HEAD
        while True:
            taken += 65536
            yield b"x" * 65536

    async def scenario() -> None:
        async with running(tmp_path, loops="", upload_limit=20_000_000) as one:
            tracemalloc.start()
            answer = await post(one.app, endless(), leaves=False)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert 413 == answer[0]["status"]
            assert taken <= 20_000_000 + 65536
            assert peak < 8_000_000
            assert ([], 0, 0) == await left(one)

    run(scenario())


def test_declared_length_is_refused_unread(tmp_path: Path) -> None:
    """
    Who says that he sends too much is not asked to.
    """

    def never() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async def scenario() -> None:
        async with running(tmp_path, loops="", upload_limit=1000) as one:
            answer = await post(one.app, never(), leaves=False, length=1001)
            assert 413 == answer[0]["status"]

    run(scenario())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\dir\\a.txt", "a.txt"),
        ("a\x00\x1b\nb", "ab"),
        ("x" * 300, "x" * 200),
        ("dir/", ""),
    ],
)
def test_client_names_no_folder(given: str, shown: str) -> None:
    """
    What is left of a client's file name is for show.
    """
    assert shown == plain_name(given)


def test_options_as_browsers_write_them() -> None:
    """
    In quotes only a quote is escaped; a backslash is a backslash.
    """
    kind, options = parse_options(b'Form-Data; name="file"; filename="C:\\d\\a\\"b;c.txt"')

    assert (b"form-data", {b"name": b"file", b"filename": b'C:\\d\\a"b;c.txt'}) == (kind, options)


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ("bytes=0-4", (0, 4)),
        ("bytes=5-", (5, 9)),
        ("bytes=-3", (7, 9)),
        ("bytes=-30", (0, 9)),
        ("bytes=0-100", (0, 9)),
        ("BYTES = 1-1", (1, 1)),
        ("bytes=10-", (10, 9)),
        ("bytes=-0", (10, 10)),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
        ("lines=0-4", None),
        ("bytes", None),
    ],
)
def test_ranges(asked: str, span: tuple[int, int] | None) -> None:
    """
    One range is served, or cannot be; several, and what is none, are ignored.
    """
    assert span == parse_range(asked, 10)


def test_events_of_a_task_are_streamed(tmp_path: Path) -> None:
    """
    The stream of a running application tells of each change, as soon as it is committed.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="consumer") as one:
            stream = one.services.events.stream(0, 60.0)
            task_id = await add(one.services)
            one.services.bell.ring()
            text = b""
            while b"SUCCESS" not in text:
                text += await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        statuses = [line.split(b'"status":"')[1].split(b'"')[0] for line in text.split(b"\n") if b"data: " in line]
        assert [b"PENDING", b"RUNNING", b"SUCCESS"] == statuses
        assert task_id.encode() in text

    run(scenario())
