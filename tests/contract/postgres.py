"""
Databases for one test each, made on the PostgreSQL of this host and dropped afterwards.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

ADMIN = os.environ.get("BGSERVER_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres")


@contextlib.contextmanager
def temporary_database(store: str, folder: Path) -> Iterator[str]:
    """
    The URL of a fresh database: jobs.db in the data folder, or one of PostgreSQL's own.
    """
    if store == "sqlite":
        yield f"sqlite:///{folder / 'data' / 'jobs.db'}"
        return
    import psycopg

    name = f"contract_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(ADMIN, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield ADMIN.rpartition("/")[0] + f"/{name}"
    finally:
        with psycopg.connect(ADMIN, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
