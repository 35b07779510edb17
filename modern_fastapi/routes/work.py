"""
Work for its own sake.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Body as FromBody

from modern_fastapi.dependencies import Tasks
from modern_fastapi.errors import problems
from modern_fastapi.fields import Days, JsonObject
from modern_fastapi.models import Accepted, Cleaning, Primes, Unstable
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.tasks import documents, numbers

router = APIRouter(route_class=StrictRoute, default_response_class=Json)


@router.post("/process", status_code=202, responses=problems(body=True))
async def process(data: Annotated[JsonObject, FromBody()], tasks: Tasks) -> Accepted:
    """
    Digests any JSON object.
    """
    return Accepted(task_id=await tasks.submit("data.process", numbers.Data(data=data)))


@router.post("/compute", status_code=202, responses=problems(body=True))
async def compute(primes: Primes, tasks: Tasks) -> Accepted:
    """
    Counts primes, in another process.
    """
    return Accepted(task_id=await tasks.submit("compute.primes", numbers.Bound(n=primes.n)))


@router.post("/unstable", status_code=202, responses=problems(body=True))
async def unstable(wanted: Unstable, tasks: Tasks) -> Accepted:
    """
    Fails as often as it is told, and is tried three times.
    """
    return Accepted(task_id=await tasks.submit("api.unstable", numbers.Failures(failures=wanted.failures)))


@router.post("/cleanup", status_code=202, responses=problems("bad_parameter"))
async def cleanup(tasks: Tasks, days: Annotated[Days, Query()] = 7) -> Cleaning:
    """
    Removes old files from the server's own folders.
    """
    return Cleaning(days=days, task_id=await tasks.submit("files.cleanup", documents.Age(days=days)))
