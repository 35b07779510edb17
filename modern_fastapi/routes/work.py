"""
Work for its own sake.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Body as FromBody

from ..dependencies import Tasks
from ..errors import problems
from ..fields import Days, JsonObject
from ..models import Accepted, Cleaning, Primes, Unstable
from ..requests import Json, StrictRoute
from ..tasks import documents, numbers

router = APIRouter(route_class=StrictRoute, default_response_class=Json)

BODY = ("bad_json", "bad_field", "too_large", "bad_media_type")


@router.post("/process", status_code=202, responses=problems(*BODY))
async def process(data: Annotated[JsonObject, FromBody()], tasks: Tasks) -> Accepted:
    """
    Digests any JSON object.
    """
    return Accepted(task_id=await tasks.submit("data.process", numbers.Data(data=data)))


@router.post("/compute", status_code=202, responses=problems(*BODY))
async def compute(primes: Primes, tasks: Tasks) -> Accepted:
    """
    Counts primes, in another process.
    """
    return Accepted(task_id=await tasks.submit("compute.primes", numbers.Bound(n=primes.n)))


@router.post("/unstable", status_code=202, responses=problems(*BODY))
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
