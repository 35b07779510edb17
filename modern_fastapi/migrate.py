"""
Brings a database to the schema of this version, from any older one, and refuses a newer one.

The files are ``migrations/{sqlite,postgresql}/NNNN_name.sql``, statements separated by lines of ``--;``. They run in
one transaction under a lock, so that several processes may start at once.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .settings import RefusedToStart

SEPARATOR = "\n--;\n"
SQLITE_LISTS = "SELECT name FROM sqlite_master WHERE name = 'schema_version'"
# Whatever else migrates this schema takes the same one.
ADVISORY_LOCK = 7236834520


async def migrate(database: Database) -> int:
    """
    Applies what is missing, and returns the version. Raises ``RefusedToStart`` for a schema newer than ours, and for a
    database that cannot be opened.
    """
    try:
        return await _migrate(database)
    except (SQLAlchemyError, OSError) as error:
        # Whatever a driver says at this point is about the database that the settings name.
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise RefusedToStart(
            f"The database {_shown(database)} cannot be opened ({said}): "
            "check that it is there, is one of ours, and can be written, or name another in JOBS_DATABASE."
        ) from error


def _shown(database: Database) -> str:
    return make_url(database.url).render_as_string(hide_password=True)


async def _migrate(database: Database) -> int:
    steps = migrations("postgresql" if database.postgresql else "sqlite")
    newest = max(steps)
    async with database.write() as connection:
        if database.postgresql:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
        present = await _version(connection, database.postgresql)
        if present > newest:
            raise RefusedToStart(
                f"The database {_shown(database)} has schema version {present}, and this program knows {newest}: "
                "start the newer program that made it, or name another database in JOBS_DATABASE."
            )
        for version in sorted(number for number in steps if number > present):
            for statement in steps[version].read_text("utf-8").split(SEPARATOR):
                await connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            await connection.execute(text("DELETE FROM schema_version"))
            await connection.execute(text("INSERT INTO schema_version (version) VALUES (:new)"), {"new": version})
    return newest


def migrations(dialect: str) -> dict[int, Traversable]:
    """
    The SQL files of one dialect by their number.
    """
    folder = files(__package__).joinpath("migrations", dialect)
    return {int(file.name[:4]): file for file in folder.iterdir() if file.name.endswith(".sql")}


async def _version(connection: AsyncConnection, postgresql: bool) -> int:
    listed = "SELECT to_regclass('schema_version')" if postgresql else SQLITE_LISTS
    if (await connection.execute(text(listed))).scalar() is None:
        return 0
    return (await connection.execute(text("SELECT max(version) FROM schema_version"))).scalar() or 0
