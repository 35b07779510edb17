"""
The tables as SQLAlchemy sees them. The SQL files below ``migrations/`` make them, and own triggers and indexes; a test
holds the two descriptions together. Times are text (see ``clock``), and JSON is text with ``\\u`` escapes.
"""

from enum import StrEnum
from typing import cast

from sqlalchemy import BigInteger, Double, Integer, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows only where the key is a plain INTEGER.
Long = BigInteger().with_variant(Integer(), "sqlite")


class Status(StrEnum):
    """
    Where a task stands. ``RETRY`` waits for its ``run_at``; the last three are final.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELLED = "CANCELLED"


FINAL = (Status.SUCCESS, Status.FAILURE, Status.CANCELLED)


class Base(DeclarativeBase):
    """
    The registry of all tables.
    """

    type_annotation_map = {str: Text, int: Integer, float: Double}


class SchemaVersion(Base):
    """
    One row: the number of the last migration.
    """

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True)


class User(Base):
    """
    An account; ``email_key`` is the address in lower case.
    """

    __tablename__ = "users"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    created_at: Mapped[str]


class DirectoryEntry(Base):
    """
    What ``directory.create`` made of a user.
    """

    __tablename__ = "directory"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[str]


class Subscription(Base):
    """
    A confirmed address.
    """

    __tablename__ = "subscriptions"

    email_key: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    confirmed_at: Mapped[str]


class Item(Base):
    """
    A thing with a name.
    """

    __tablename__ = "items"

    item_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[str]


class Upload(Base):
    """
    A file that a client sent; on disk it is called ``upload_id``.
    """

    __tablename__ = "uploads"

    upload_id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    size: Mapped[int] = mapped_column(Long)
    task_id: Mapped[str]
    created_at: Mapped[str]


class Export(Base):
    """
    A copy of the tasks table that a client asked for.
    """

    __tablename__ = "exports"

    export_id: Mapped[str] = mapped_column(primary_key=True)
    format: Mapped[str]
    task_id: Mapped[str]
    created_at: Mapped[str]


class Task(Base):
    """
    One piece of work: what, for whom it waits, who runs it, and how it ended.
    """

    __tablename__ = "tasks"

    seq: Mapped[int] = mapped_column(Long, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    params: Mapped[str]
    status: Mapped[str]
    engine: Mapped[str]
    unique_key: Mapped[str | None] = mapped_column(unique=True)
    after_id: Mapped[str | None]
    priority: Mapped[int]
    run_at: Mapped[str]
    attempts: Mapped[int]
    failures: Mapped[int]
    rescues: Mapped[int]
    max_attempts: Mapped[int]
    timeout: Mapped[float | None]
    owner: Mapped[str | None]
    heartbeat: Mapped[int] = mapped_column(Long)
    cancel_requested: Mapped[int]
    progress: Mapped[float]
    result: Mapped[str | None]
    error: Mapped[str | None]
    created_at: Mapped[str]
    started_at: Mapped[str | None]
    finished_at: Mapped[str | None]
    expires_at: Mapped[str | None]
    handed: Mapped[int]
    handed_at: Mapped[str | None]


class Event(Base):
    """
    A change of a task, written by the database's own triggers.
    """

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(Long, primary_key=True)
    task_id: Mapped[str]
    name: Mapped[str]
    status: Mapped[str]
    attempts: Mapped[int]
    at: Mapped[str]


class Limit(Base):
    """
    How much of one kind of task may run at once, how many may start in a second, and whether any may.
    """

    __tablename__ = "limits"

    name: Mapped[str] = mapped_column(primary_key=True)
    concurrency: Mapped[int | None]
    rate: Mapped[float | None]
    paused: Mapped[int]


class Process(Base):
    """
    A process that runs tasks; ``start_time`` tells it from a later one with the same pid.
    """

    __tablename__ = "processes"

    boot_id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    start_time: Mapped[str]
    side: Mapped[str]
    # Nobody reads it, and it isn't written any more. Until none is left that does, it can't be dropped: an earlier
    # version's write would fail, and with it the heartbeats of its tasks, which stand in the same transaction.
    beats: Mapped[int] = mapped_column(Long, server_default="0")
    started_at: Mapped[str]


class Loop(Base):
    """
    A background loop, and the fence that its writes have to pass.
    """

    __tablename__ = "loops"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str | None]
    epoch: Mapped[int] = mapped_column(Long)
    state: Mapped[str]
    last_tick: Mapped[str | None]
    ticks: Mapped[int] = mapped_column(Long)
    errors: Mapped[int] = mapped_column(Long)
    last_error: Mapped[str | None]


class Tick(Base):
    """
    A tick that happened; its key makes a second one impossible.
    """

    __tablename__ = "ticks"

    key: Mapped[str] = mapped_column(primary_key=True)
    loop: Mapped[str]
    owner: Mapped[str]
    epoch: Mapped[int] = mapped_column(Long)
    committed_at: Mapped[str]


class Report(Base):
    """
    The report of one day.
    """

    __tablename__ = "reports"

    day: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]
    created_at: Mapped[str]


class CacheEntry(Base):
    """
    What ``cache_refresh`` counted.
    """

    __tablename__ = "cache"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    refreshed_at: Mapped[str]


# The tables themselves: what runs often is built on these, which SQLAlchemy is quicker with than with the classes.
TASKS: Table = cast(Table, Task.__table__)
LOOPS: Table = cast(Table, Loop.__table__)
LIMITS: Table = cast(Table, Limit.__table__)
