"""
Owns the answer to who holds a SQLite file locked, for a person who wants to write it.

Refuses: to be needed.  Where the system doesn't tell (no Linux, another container) nobody is named.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def holders(path: Path) -> list[str]:
    """
    The other processes of this host that hold a lock for writing, as C{"process 123 (twistd)"}, in order.

    The kernel's list has the inode of the file; in WAL mode it's the one beside it that writers lock.
    """
    files = set()
    for each in (path, Path(f"{path}-shm")):
        with contextlib.suppress(OSError):
            found = each.stat()
            files.add(f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}")
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return []
    pids = set()
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 4242 08:01:131297 120 120; who only waits for a lock has an arrow behind the number.
        words = line.split()
        if len(words) == 8 and words[3] == "WRITE" and words[5] in files:
            pids.add(int(words[4]))
    return [_named(pid) for pid in sorted(pids - {os.getpid()}) if pid > 0]


def _named(pid: int) -> str:
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()})"
    except OSError:
        return f"process {pid}"
