"""
The schema: what SQLAlchemy believes is what the SQL files make, on both databases, from every older version.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import UniqueConstraint, inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from modern_fastapi import migrate as migrating
from modern_fastapi.database import Database
from modern_fastapi.migrate import migrate, migrations
from modern_fastapi.schema import Base
from modern_fastapi.settings import RefusedToStart
from tests.modern.application import run

ADMIN = "postgresql+psycopg://postgres@127.0.0.1/postgres"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """
    An empty database, gone after the test.
    """
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    name = f"modern_{uuid.uuid4().hex}"
    asyncio.run(_administer(f"CREATE DATABASE {name}"))
    yield f"postgresql://postgres@127.0.0.1/{name}"
    asyncio.run(_administer(f"DROP DATABASE {name} WITH (FORCE)"))


async def _administer(statement: str) -> None:
    engine = create_async_engine(ADMIN, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """
    A database that is closed again.
    """
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()


def _described(connection: Connection) -> dict[str, Any]:
    looked = inspect(connection)
    return {
        table: {
            "columns": {
                column["name"]: (column["type"]._type_affinity.__name__, column["nullable"])
                for column in looked.get_columns(table)
            },
            "key": looked.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(each["column_names"] for each in looked.get_unique_constraints(table)),
        }
        for table in looked.get_table_names()
    }


def _declared(dialect: Any) -> dict[str, Any]:
    return {
        table.name: {
            "columns": {
                column.name: (
                    column.type.dialect_impl(dialect)._type_affinity.__name__,
                    column.nullable or (column.primary_key and dialect.name == "sqlite" and table.name != "tasks"),
                )
                for column in table.columns
            },
            "key": [column.name for column in table.primary_key],
            "unique": sorted(
                [column.name for column in each.columns]
                for each in table.constraints
                if isinstance(each, UniqueConstraint)
            ),
        }
        for table in Base.metadata.sorted_tables
    }


def test_tables_are_what_the_files_make(url: str) -> None:
    """
    Names, kinds of types, keys, uniqueness and whether null is allowed agree, column by column.

    Seen to fail with a column renamed in either description, and with a NOT NULL taken away.
    """

    async def scenario() -> None:
        async with opened(url) as database:
            await migrate(database)
            async with database.engine.connect() as connection:
                made = await connection.run_sync(_described)
            declared = _declared(database.engine.dialect)
        # The version table has no key of its own, and a key of SQLite's may be null by its old mistake.
        made["schema_version"]["key"] = ["version"]
        for tables in (made, declared):
            for table in tables.values():
                for name in table["key"]:
                    table["columns"][name] = (table["columns"][name][0], False)
        assert declared == made

    run(scenario())


def test_second_start_changes_nothing(url: str) -> None:
    """
    A database that is up to date is left alone.
    """

    async def scenario() -> None:
        async with opened(url) as database:
            first = await migrate(database)
            assert first == await migrate(database)
            async with database.read() as connection:
                versions = (await connection.execute(text("SELECT version FROM schema_version"))).scalars().all()
        assert [first] == list(versions)

    run(scenario())


def test_processes_start_together(url: str) -> None:
    """
    Several processes that find an empty database make its tables once, and all go on.

    Seen to fail with the lock taken out of `migrate`, and with a plain BEGIN on SQLite.
    """

    async def scenario() -> None:
        async with opened(url) as one, opened(url) as two, opened(url) as three:
            assert 1 == len({*await asyncio.gather(migrate(one), migrate(two), migrate(three))})

    run(scenario())


def test_older_schema_is_brought_up(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Only the missing files run, in order, whatever version the database has.
    """
    steps: dict[int, Any] = dict(migrations("postgresql" if url.startswith("postgresql") else "sqlite"))
    newest = max(steps)
    for number in (1, 2):
        steps[newest + number] = tmp_path / f"{number}.sql"
    (tmp_path / "1.sql").write_text("CREATE TABLE extra (a INTEGER)\n--;\nINSERT INTO extra VALUES (1)")
    (tmp_path / "2.sql").write_text("UPDATE extra SET a = a * 10 + 2")

    async def scenario() -> None:
        async with opened(url) as database:
            await migrate(database)
            monkeypatch.setattr(migrating, "migrations", lambda dialect: steps)
            assert newest + 2 == await migrate(database)
            async with database.read() as connection:
                assert 12 == (await connection.execute(text("SELECT a FROM extra"))).scalar()

    run(scenario())


def test_failed_migration_leaves_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A migration that breaks in the middle has not begun.
    """
    (tmp_path / "bad.sql").write_text("CREATE TABLE extra (a INTEGER)\n--;\nCREATE NONSENSE")
    monkeypatch.setattr(migrating, "migrations", lambda dialect: {1: tmp_path / "bad.sql"})

    async def scenario() -> None:
        async with opened(url) as database:
            with pytest.raises(Exception, match="NONSENSE"):
                await migrate(database)
            async with database.engine.connect() as connection:
                assert [] == await connection.run_sync(lambda each: inspect(each).get_table_names())

    run(scenario())


def test_newer_schema_is_refused(url: str) -> None:
    """
    A database of a newer program is not touched; one line says so.
    """

    async def scenario() -> None:
        async with opened(url) as database:
            await migrate(database)
            async with database.write() as connection:
                await connection.execute(text("UPDATE schema_version SET version = 9999"))
            with pytest.raises(RefusedToStart, match="has schema version 9999, and this program knows"):
                await migrate(database)

    run(scenario())
