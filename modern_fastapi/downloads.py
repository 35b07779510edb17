"""
Sends a file: whole, one range of it, or only the news that it has not changed.
"""

import os
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import Refusal
from .files import Files

PIECE = 256 * 1024


class Download(Response):
    """
    One file of the data folder, in pieces; each is read when the client has taken the one before.
    """

    def __init__(self, files: Files, path: Path, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self._files = files
        self._path = path
        self._type = media_type
        self._more = dict(headers or {})
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            source = await self._files.run(lambda: self._path.open("rb"))
        except FileNotFoundError:
            await Refusal("not_found", "the file is gone").response()(scope, receive, send)
            return
        try:
            await self._answer(source, Headers(scope=scope), scope, receive, send)
        finally:
            source.close()
        if self.background is not None:
            await self.background()

    async def _answer(self, source: BinaryIO, asked: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        # Of the open file, so that size, tag and content belong together whatever happens to the name.
        stat = os.fstat(source.fileno())
        size = stat.st_size
        tag = f'"{size:x}-{stat.st_mtime_ns:x}"'
        changed = formatdate(int(stat.st_mtime), usegmt=True)
        headers = {"Accept-Ranges": "bytes", "ETag": tag, "Last-Modified": changed}
        if _unchanged(asked, tag, int(stat.st_mtime)):
            await send(_start(304, headers))
            await send({"type": "http.response.body"})
            return
        wanted = asked.get("range") if asked.get("if-range", tag) in (tag, changed) else None
        first, last = 0, size - 1
        status = 200
        if wanted is not None and (span := parse_range(wanted, size)) is not None:
            if span[0] >= size or span[1] < span[0]:
                refused = {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"}
                refusal = Refusal("bad_parameter", "Range: cannot be satisfied", status=416, headers=refused)
                await refusal.response()(scope, receive, send)
                return
            first, last = span
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers |= {"Content-Length": str(last - first + 1), "Content-Type": self._type, **self._more}
        await send(_start(status, headers))
        left = 0 if scope.get("jobs.head") else last - first + 1
        source.seek(first)
        while left:
            piece = await self._files.run(lambda left=left: source.read(min(PIECE, left)))  # type: ignore[misc]
            if not piece:
                raise OSError(f"{self._path} became shorter while it was sent")
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
        if last < first or scope.get("jobs.head"):
            await send({"type": "http.response.body"})


def _start(status: int, headers: Mapping[str, str]) -> dict[str, object]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def _unchanged(asked: Headers, tag: str, mtime: int) -> bool:
    if (tags := asked.get("if-none-match")) is not None:
        return any(one.strip().removeprefix("W/") in (tag, "*") for one in tags.split(","))
    if (date := asked.get("if-modified-since")) is not None:
        try:
            return mtime <= parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return False
    return False


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """
    The first and last byte that a Range header asks for; None where it asks for several, or makes no sense.

    A first byte behind the end, or a last before the first, cannot be satisfied.
    """
    unit, separator, span = text.partition("=")
    begin, dash, end = span.strip().partition("-")
    if not separator or unit.strip().lower() != "bytes" or not dash or "," in span:
        return None
    for part in (begin, end):
        if part and not (part.isascii() and part.isdigit() and len(part) <= 18):
            return None
    if begin:
        if end and int(end) < int(begin):
            return None
        return int(begin), min(int(end), size - 1) if end else size - 1
    if not end:
        return None
    return (max(0, size - int(end)), size - 1) if int(end) else (size, size)
