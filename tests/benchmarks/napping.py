"""
Two tasks that the example hasn't, for the benchmark of tasks: one sleeps for 0.1 s, one does nothing. A worker of
Celery, RQ or Dramatiq loads this module in place of the example's own.
"""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from modern_fastapi import services
from modern_fastapi.tasks.context import TaskContext
from modern_fastapi.tasks.kinds import KINDS, Kind


class Nothing(BaseModel):
    """
    No parameters.
    """


async def nap(context: TaskContext, params: Nothing) -> None:
    await asyncio.sleep(0.1)


async def nothing(context: TaskContext, params: Nothing) -> None:
    return None


services.KINDS = {
    **KINDS,
    "bench.nap": Kind("bench.nap", Nothing, nap),
    "bench.nothing": Kind("bench.nothing", Nothing, nothing),
}

if os.environ.get("JOBS_ENGINE") == "celery":
    from modern_fastapi.engines.celery_worker import app  # noqa: F401
elif os.environ.get("JOBS_ENGINE") == "dramatiq":
    from modern_fastapi.engines.dramatiq_worker import broker  # noqa: F401
elif os.environ.get("JOBS_ENGINE") == "rq":
    import modern_fastapi.engines.rq_worker  # noqa: F401
