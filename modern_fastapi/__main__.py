"""
What an operator does to the tasks: ``python -m modern_fastapi requeue|pause|resume|limit|failed``.

It works on the database that the settings name (``JOBS_*``), whether a server runs or not.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from sqlalchemy import select

from .clock import SystemClock
from .database import Database
from .migrate import migrate
from .schema import Status, Task
from .settings import load_settings
from .tasks import limits
from .tasks.rows import TaskRows


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Runs one command; the exit status is 1 where it found nothing to do.
    """
    parser = argparse.ArgumentParser(prog="python -m modern_fastapi", description="Look after the tasks.")
    commands = parser.add_subparsers(dest="command", required=True)
    failed = commands.add_parser("failed", help="list the tasks that have failed for good")
    failed.add_argument("--name", help="only tasks of this name")
    requeue = commands.add_parser("requeue", help="give failed or cancelled tasks all their attempts again")
    requeue.add_argument("task_id", nargs="*")
    requeue.add_argument("--name", help="all failed tasks of this name")
    for command, about in (("pause", "let no task of this name start"), ("resume", "let them start again")):
        commands.add_parser(command, help=about).add_argument("name")
    limit = commands.add_parser("limit", help="limit a name; without options, take its limits away")
    limit.add_argument("name")
    limit.add_argument("--concurrency", type=int, help="how many may run at once")
    limit.add_argument("--rate", type=float, help="how many may start in a second")
    return asyncio.run(_run(parser.parse_args(arguments)))


async def _run(options: argparse.Namespace) -> int:
    settings = load_settings()
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    try:
        await migrate(database)
        if options.command in ("failed", "requeue"):
            return await _dead_letters(database, options)
        if options.command == "limit":
            await limits.limit(database, options.name, concurrency=options.concurrency, rate=options.rate)
        else:
            await limits.pause(database, options.name, options.command == "pause")
        return 0
    finally:
        await database.close()


async def _dead_letters(database: Database, options: argparse.Namespace) -> int:
    async with database.read() as connection:
        wanted = select(Task.id, Task.name, Task.finished_at, Task.error).where(Task.status == Status.FAILURE)
        if options.name is not None:
            wanted = wanted.where(Task.name == options.name)
        failed = (await connection.execute(wanted.order_by(Task.seq))).all()
    if options.command == "failed":
        for row in failed:
            sys.stdout.write(f"{row.id}  {row.name}  {row.finished_at}  {row.error}\n")
        return 0 if failed else 1
    rows = TaskRows(database, SystemClock(), boot_id="")
    task_ids = [*options.task_id, *([row.id for row in failed] if options.name is not None else [])]
    done = 0
    async with database.write() as connection:
        for task_id in task_ids:
            done += await rows.requeue(connection, task_id)
    sys.stdout.write(f"{done} of {len(task_ids)} tasks wait again\n")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
