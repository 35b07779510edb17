"""
Tasks on files: the text of an upload in upper case, the tasks table as CSV or JSON, and clearing away what is old.

Each reads and writes a piece at a time, in a thread, and shows its file under the final name only when it is whole.
"""

import codecs
import csv
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel
from sqlalchemy import select

from modern_fastapi.schema import FINAL, Export, Task, Upload

from .context import TaskContext

PIECE = 256 * 1024
PAGE = 1000
UNDER_WAY = 3600.0  # seconds
CLEANED = ("uploads", "processed", "exports", "outbox")
COLUMNS = ("id", "name", "status", "attempts", "created_at", "finished_at")


class UploadedFile(BaseModel):
    """
    Which upload.
    """

    upload_id: str


class WantedExport(BaseModel):
    """
    Which export, and in which form.
    """

    export_id: str
    format: Literal["csv", "json"]


class Age(BaseModel):
    """
    Files older than this many days go.
    """

    days: int


async def process_file(context: TaskContext, params: UploadedFile) -> dict[str, int]:
    """
    Counts lines, words and bytes, writes the text in upper case under a line that says so, and removes the original.
    """
    files = context.services.files
    original = files.path(f"uploads/{params.upload_id}")
    processed = files.path(f"processed/{params.upload_id}.txt")
    counts = await context.in_thread(lambda: _process(context, original, processed))
    return counts


def _process(context: TaskContext, original: Path, processed: Path) -> dict[str, int]:
    if not original.exists() and processed.exists():
        # An earlier attempt got as far as this, and died before it could say so.
        with processed.open("rb") as done:
            header = done.readline().decode()
        return {key: int(value) for key, value in (part.split("=") for part in header.split()[1:])}
    counts = _count(context, original)
    part = processed.with_name(f"{processed.name}.{context.attempts}.part")
    try:
        with part.open("wb") as target:
            target.write("# lines={lines} words={words} bytes={bytes}\n".format(**counts).encode())
            for share, text in _texts(original):
                target.write(text.upper().encode("utf-8"))
                context.progress(0.5 + share / 2)
            _settle(target)
        os.replace(part, processed)
    finally:
        part.unlink(missing_ok=True)
    original.unlink(missing_ok=True)
    return counts


def _count(context: TaskContext, original: Path) -> dict[str, int]:
    lines = words = 0
    in_word = False
    last = "\n"
    for share, text in _texts(original):
        context.progress(share / 2)
        if not text:
            continue
        lines += text.count("\n")
        words += len(text.split())
        if in_word and not text[0].isspace():
            words -= 1
        in_word = not text[-1].isspace()
        last = text[-1]
    return {"lines": lines + (last != "\n"), "words": words, "bytes": original.stat().st_size}


def _texts(path: Path) -> Iterator[tuple[float, str]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    size = path.stat().st_size or 1
    with path.open("rb") as source:
        while data := source.read(PIECE):
            yield source.tell() / size, decoder.decode(data)
        yield 1.0, decoder.decode(b"", final=True)


async def export_data(context: TaskContext, params: WantedExport) -> dict[str, int]:
    """
    All tasks that are older than this one, a page at a time.
    """
    services = context.services
    final = services.files.path(f"exports/{params.export_id}.{params.format}")
    part = final.with_name(f"{final.name}.{context.attempts}.part")
    wanted = select(Task.seq, *(getattr(Task, name) for name in COLUMNS)).order_by(Task.seq).limit(PAGE)
    rows = seen = 0
    try:
        target = await context.in_thread(lambda: part.open("wb"))
        with target:
            async with services.database.read() as connection:
                own = (await connection.execute(select(Task.seq).where(Task.id == context.task_id))).scalar_one()
                await context.in_thread(lambda: target.write(_opening(params.format)))
                while page := (await connection.execute(wanted.where(Task.seq > seen, Task.seq < own))).all():
                    data = _page(params.format, [tuple(row)[1:] for row in page], first=not rows)
                    await context.in_thread(lambda data=data: target.write(data))  # type: ignore[misc]
                    rows += len(page)
                    seen = page[-1].seq
                    context.progress(seen / own)
            size = await context.in_thread(lambda: _close(target, params.format))
        await context.in_thread(lambda: os.replace(part, final))
    finally:
        part.unlink(missing_ok=True)
    return {"rows": rows, "bytes": size}


def _opening(form: str) -> bytes:
    return b"[" if form == "json" else (",".join(COLUMNS) + "\r\n").encode()


def _page(form: str, rows: list[tuple[Any, ...]], *, first: bool) -> bytes:
    if form == "json":
        text = ",".join(
            json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False, separators=(",", ":")) for row in rows
        )
        return (text if first else "," + text).encode()
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode()


def _close(target: BinaryIO, form: str) -> int:
    if form == "json":
        target.write(b"]\n")
    _settle(target)
    return target.tell()


def _settle(target: BinaryIO) -> None:
    # The row will say that the file is there: after a power cut, too.
    target.flush()
    os.fsync(target.fileno())


async def clean_up_files(context: TaskContext, params: Age) -> dict[str, list[str]]:
    """
    Removes files older than ``days`` from the server's own folders, and tells which. What may still be on its way in,
    or be half written, is left alone for an hour.
    """
    services = context.services
    needed = await _files_in_use(context)

    def remove() -> list[str]:
        gone = []
        now = time.time()
        oldest = now - params.days * 86_400
        for folder in CLEANED:
            for path in services.files.path(folder).iterdir():
                name = f"{folder}/{path.name}"
                context.checkpoint()
                if f"{folder}/{path.name.split('.')[0]}" in needed or not path.is_file():
                    continue
                under_way = folder == "uploads" or path.suffix == ".part"
                try:
                    if path.stat().st_mtime < (min(oldest, now - UNDER_WAY) if under_way else oldest):
                        path.unlink()
                        gone.append(name)
                except FileNotFoundError:
                    continue  # it has just got its name, or somebody else has removed it
        return sorted(gone)

    return {"removed": await context.in_thread(remove)}


async def _files_in_use(context: TaskContext) -> set[str]:
    unfinished = Task.status.not_in(FINAL)
    async with context.services.database.read() as connection:
        uploads = select(Upload.upload_id).join(Task, Task.id == Upload.task_id).where(unfinished)
        exports = select(Export.export_id).join(Task, Task.id == Export.task_id).where(unfinished)
        mails = select(Task.id).where(unfinished)
        found = {f"uploads/{name}" for name in (await connection.execute(uploads)).scalars()}
        found |= {name.replace("uploads/", "processed/") for name in found}
        found |= {f"exports/{name}" for name in (await connection.execute(exports)).scalars()}
        return found | {f"outbox/{name}" for name in (await connection.execute(mails)).scalars()}
