"""
State databases that a test can break.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.state import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """
    A SQLite state that isn't there yet.
    """
    return f"sqlite:///{tmp_path / 'state.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """
    An opened SQLite state.
    """
    opened = Store.open(url, patience=0.2)
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers("postgresql"))])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """
    A state on each database.
    """
    if request.param == "sqlite":
        opened = Store.open(f"sqlite:///{tmp_path / 'state.db'}", patience=0.2)
        yield opened
        opened.close()
        return
    pytest.importorskip("psycopg")
    server = os.environ.get("BGSERVER_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres")
    name = f"bgserver_test_{os.getpid()}"
    admin = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    opened = Store.open(sa.make_url(server).set(database=name).render_as_string(hide_password=False))
    yield opened
    opened.close()
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()
