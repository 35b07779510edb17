"""
The data folder: which files there are, and how a line is added to a log so that no reader sees half of it.

File work blocks, so it runs in threads of its own; they are few, and a slow disk keeps nobody else's threads busy.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .settings import RefusedToStart

T = TypeVar("T")

FOLDERS = ("uploads", "processed", "exports", "outbox")


class Files:
    """
    All files below the data folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="files")

    def prepare(self) -> None:
        """
        Makes the folders. Raises ``RefusedToStart`` where nothing can be written.
        """
        try:
            for folder in FOLDERS:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise RefusedToStart(
                f"JOBS_DATA is {str(self.root)!r}, where nothing can be written ({error.strerror}): "
                "make the folder writable or name another one."
            ) from error

    def path(self, name: str) -> Path:
        """
        The path of a file whose name is ours, as ``uploads/{upload_id}``.
        """
        return self.root / name

    async def run(self, function: Callable[[], T]) -> T:
        """
        Runs blocking file work in a thread.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def append(self, name: str, *lines: dict[str, Any]) -> None:
        """
        Adds JSON lines to a log in one write, so that several processes may share the file.
        """
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        await self.run(lambda: self._append(name, text.encode()))

    def _append(self, name: str, data: bytes) -> None:
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    async def write(self, name: str, data: bytes) -> None:
        """
        Writes a whole file, which appears under its name when it is complete.
        """
        await self.run(lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)

    def close(self) -> None:
        """
        Waits for what was begun and ends the threads.
        """
        self._threads.shutdown(wait=True)
