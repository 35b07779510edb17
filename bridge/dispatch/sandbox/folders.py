"""
Owns the copy of a folder: a tree of files, or an outbox whose files are mails.

Refuses: to follow links out of the folder, and to read a large file to say what
changed in it: its size and digest say so, and of a table its columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from fnmatch import translate
from pathlib import Path
from typing import Any

import attrs

from bridge.dispatch.sandbox.copies import Copy, Names
from bridge.dispatch.sandbox.tables import LONGEST, table_of
from bridge.parity.observe import Effect

_READ = 64 * 1024
_Stamp = tuple[int, int, int]


@attrs.define(eq=False)
class FolderCopy:
    """
    One folder and its copy.

    @ivar kind: What a file in it is called as an effect: C{file} or C{mail}.
    @ivar apart: Patterns of relative names that are left alone: another copy's, or
        nobody's.
    """

    original: Path
    copy: Path
    kind: str = "file"
    apart: tuple[str, ...] = ()
    cheap: bool = attrs.field(default=False, init=False)
    _seen: dict[str, _Stamp] = attrs.field(factory=dict)
    _since: float = 0.0
    _apart: re.Pattern[str] | None = attrs.field(init=False)

    @_apart.default
    def _patterns(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(translate, self.apart))) if self.apart else None

    def seed(self, like: Copy | None) -> None:
        """
        Copy the tree.
        """
        source = like.copy if isinstance(like, FolderCopy) else self.original
        self._since = time.time()
        self.copy.mkdir(parents=True, exist_ok=True)
        for name, _ in self._files(self.copy):
            (self.copy / name).unlink(missing_ok=True)
        for name, _ in self._files(source):
            target = self.copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(source / name, target, follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went while we looked
        self._seen = dict(self._files(self.copy))

    def changes(self, names: Names = dict) -> list[Effect]:
        """
        The files that came, changed or went since.
        """
        now = dict(self._files(self.copy))
        found = []
        for name in sorted(now.keys() | self._seen.keys()):
            before, after = self._seen.get(name), now.get(name)
            if before == after:
                continue
            key = f"{self.original.name}:{name}"
            if after is None:
                found.append(Effect(self.kind, key, {"op": "delete"}))
                continue
            if before is None or after[0] <= before[0] or before[2] != after[2]:
                op = "insert" if before is None else "update"
                content = self._table(name, after[0], names) or self._content(name, 0, after[0])
                found.append(Effect(self.kind, key, {"op": op, **content}))
                continue
            # A log: each line belongs to whoever wrote it.
            content = self._content(name, before[0], after[0])
            for line in content.pop("lines", ()):
                found.append(Effect(self.kind, key, {"op": "append", "line": line}))
            if content:
                found.append(Effect(self.kind, key, {"op": "update", **content}))
        self._seen = now
        return found

    def _table(self, name: str, size: int, names: Names) -> dict[str, Any] | None:
        """
        What a file comes to that is a table; None if it is none.
        """
        if not name.endswith((".csv", ".json")) or size > LONGEST:
            return None
        try:
            text = (self.copy / name).read_bytes()[:size].decode("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return table_of(name, text, self._since, names())

    def _content(self, name: str, start: int, end: int) -> dict[str, Any]:
        """
        A small text from where it was appended to; else a size and a digest.  What
        comes after C{end} was written since we looked, and is told the next time.
        """
        total = hashlib.blake2b(digest_size=16)
        size, kept = 0, b""
        try:
            with open(self.copy / name, "rb") as file:
                file.seek(start)
                while data := file.read(min(_READ, end - start - size)):
                    size += len(data)
                    total.update(data)
                    if len(kept) < _READ:
                        kept += data[: _READ - len(kept)]
        except FileNotFoundError:
            return {"gone": True}
        if size == len(kept):
            try:
                return {"lines": [_line(line) for line in kept.decode("utf-8").removesuffix("\n").split("\n")]}
            except UnicodeDecodeError:
                pass
        # In decimals: a hexadecimal word would be taken for an id, and mapped to the other's.
        return {"size": size, "digest": str(int.from_bytes(total.digest(), "big"))}

    def leaked(self, ids: Sequence[str]) -> str:
        """
        Whether a file of the original is called by one of these ids.
        """
        for _, name in _entries(self.original):
            if any(each in name for each in ids) and not (self._apart and self._apart.match(name)):
                return f"{self.original.name}:{name}"
        return ""

    def _files(self, folder: Path) -> Iterator[tuple[str, _Stamp]]:
        apart = self._apart
        for name, stamp in _files(folder):
            if apart is None or not apart.match(name):
                yield name, stamp

    def close(self) -> None:
        """
        Nothing stays open between two calls.
        """


def _line(text: str) -> Any:
    # A log of JSON lines is compared by path.
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _files(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    """
    The regular files below a folder, by relative name: size, time of change, inode.
    """
    for entry, name in _entries(folder):
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # that one went while we looked; the others are there
        yield name, (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _entries(folder: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    """
    The same without a look at each.
    """
    # Texts, not paths: this runs several times for each write, over all files.
    start = len(str(folder)) + 1
    work = [str(folder)]
    while work:
        try:
            with os.scandir(work.pop()) as found:
                entries = list(found)
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                work.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry, entry.path[start:]
