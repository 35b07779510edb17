"""
Owns the key under which secrets become tokens: a file beside the state, for the server's
user alone, so that equal secrets have equal tokens in every process and after every start.

Refuses: to put it into the state database, where the evidence is. Whoever has a copy of
that must not be able to try values out.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from sqlalchemy.engine import make_url

from bridge.errors import StateError

_SIZE = 32

_log = logging.getLogger("bridge.state")


def key_path(url: str, base: Path) -> Path:
    """
    Where the key of a state lies: beside an SQLite file, else beside the policy.
    """
    made = make_url(url)
    if made.get_backend_name() == "sqlite" and made.database:
        return Path(f"{made.database}.key").absolute()
    return base / "bgserver.key"


def redaction_key(url: str, base: Path) -> bytes:
    """
    The key of a state; made where there is none yet.  Reads and writes files.

    Where it can't be written, this process has one of its own, which is said.

    @param base: The policy's folder.
    @raise StateError: If the file is there and holds no key.
    """
    path = key_path(url, base)
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            _log.warning(
                "No key can be kept in %s (%s): secrets have other tokens after each start.", path, error.strerror
            )
            return secrets.token_bytes(_SIZE)
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        key, why = b"", getattr(error, "strerror", None) or "it holds no key"
    else:
        why = "it holds no key"
    if len(key) < _SIZE:
        raise StateError(
            f"{path} can't be used as the key of the secrets' tokens: {why}. "
            "Put it back, or remove it, and secrets get new tokens."
        )
    return key


def _make(path: Path) -> None:
    # Whole or not at all: another process may look for it at this moment, or make it, too.
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_SIZE) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return  # the other one's counts
    finally:
        part.unlink()
