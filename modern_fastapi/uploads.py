"""
Takes an upload straight to the disk: a piece of the body in memory, never the file; nothing stays when it fails.
"""

import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from .errors import Refusal
from .files import Files
from .requests import bounded, refuse_media_type

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = b"file"
NAME_LIMIT = 200
BUFFER = 1024 * 1024
HEADER_LIMIT = 16 * 1024
# As browsers write it: in quotes only a quote is escaped, and a backslash is one.
OPTION = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:\\"|[^"])*)"|([^;"]*))')


@dataclass
class Received:
    """
    A file that has arrived, under a temporary name.
    """

    filename: str
    size: int
    path: Path


def plain_name(name: str) -> str:
    """
    The client's file name for show: without its folders and control characters, and not too long.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable() or character == " ")[:NAME_LIMIT]


def parse_options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """
    A header such as ``form-data; name="file"``: its first word in lower case, and the options by their lower-case name.
    """
    found = {
        name.lower(): plain.strip() if plain else quoted.replace(b'\\"', b'"')
        for name, quoted, plain in OPTION.findall(header)
    }
    return header.partition(b";")[0].strip().lower(), found


@contextlib.asynccontextmanager
async def receive(request: Request, files: Files, name: str, limit: int) -> AsyncIterator[Received]:
    """
    Reads the multipart body into the file ``name``.part. Whoever wants to keep it renames it within the block;
    what still has the temporary name at the end of the block, for whatever reason, is removed.
    """
    refuse_media_type(request, "multipart/form-data")
    boundary = parse_options(request.headers["content-type"].encode("latin-1"))[1].get(b"boundary")
    if not boundary:
        raise Refusal("bad_field", "file: malformed multipart")
    path = files.path(f"{name}.part")
    target = await files.run(lambda: path.open("wb"))
    try:
        form = _Form()
        await _read(request, files, form, boundary, target, limit)
        if form.filename is None:
            raise Refusal("bad_field", "file: must be a file" if form.named else "file: missing")
        filename = plain_name(form.filename)
        if not filename:
            raise Refusal("bad_field", "file: must be a file")
        yield Received(filename, form.size, path)
    finally:
        # Closing writes what is left, which a full disk refuses once more; the file has to go all the same.
        with contextlib.suppress(OSError):
            target.close()
        path.unlink(missing_ok=True)


async def _read(request: Request, files: Files, form: "_Form", boundary: bytes, target: BinaryIO, limit: int) -> None:
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for piece in bounded(request, limit):
            parser.write(piece)
            if form.restarted or sum(map(len, form.waiting)) >= BUFFER:
                await _put_down(files, form, target)
        parser.finalize()
    except FormParserError as error:
        raise Refusal("bad_field", "file: malformed multipart") from error
    if not form.ended:
        raise Refusal("bad_field", "file: malformed multipart")
    await _put_down(files, form, target)
    await files.run(lambda: os.fsync(target.fileno()))


async def _put_down(files: Files, form: "_Form", target: BinaryIO) -> None:
    data, form.waiting = b"".join(form.waiting), []
    restarted, form.restarted = form.restarted, False

    def write() -> None:
        if restarted:
            target.seek(0)
            target.truncate()
        target.write(data)
        target.flush()

    await files.run(write)


@dataclass
class _Form:
    """
    What the parser's callbacks have heard. Only the last part called ``file`` is kept.
    """

    filename: str | None = None
    named: bool = False
    size: int = 0
    ended: bool = False
    restarted: bool = False
    waiting: list[bytes] = field(default_factory=list)
    _keeping: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""

    def callbacks(self) -> "MultipartCallbacks":
        """
        For the parser.
        """
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._hear_field,
            "on_header_value": self._hear_value,
            "on_header_end": self._hear_header,
            "on_headers_finished": self._hear_headers,
            "on_part_data": self._hear_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._keeping = False
        self._disposition = b""

    def _hear_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bound()

    def _hear_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        if len(self._header) + len(self._value) > HEADER_LIMIT:
            raise FormParserError("a part's header is too long")

    def _hear_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _hear_headers(self) -> None:
        kind, options = parse_options(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise FormParserError("a part has no name")
        if options[b"name"] != FIELD:
            return
        self.named = True
        self.waiting.clear()
        self.restarted = True
        self.size = 0
        filename = options.get(b"filename")
        self.filename = None if filename is None else filename.decode("utf-8", "replace")
        self._keeping = filename is not None

    def _hear_data(self, data: bytes, start: int, end: int) -> None:
        if self._keeping:
            self.waiting.append(data[start:end])
            self.size += end - start

    def _end(self) -> None:
        self.ended = True
