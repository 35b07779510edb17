"""
Items, and how a dependency submits a task of its own before the route does.
"""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import insert

from modern_fastapi.clock import as_text
from modern_fastapi.dependencies import AllServices, Tasks
from modern_fastapi.errors import problems
from modern_fastapi.fields import ItemName, MaybeMessage, PathItem
from modern_fastapi.models import ItemProcessing, NewItem
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.schema import Item
from modern_fastapi.tasks import records
from modern_fastapi.tasks.submissions import Batch

router = APIRouter(route_class=StrictRoute, default_response_class=Json)


@router.post("/items", status_code=201, responses=problems("bad_parameter"))
async def create_item(name: ItemName, services: AllServices, tasks: Tasks) -> NewItem:
    """
    Makes an item.
    """
    item_id = str(uuid.uuid4())

    async def write(batch: Batch) -> str:
        values = {"item_id": item_id, "name": name, "created_at": as_text(services.clock.now())}
        await batch.connection.execute(insert(Item), values)
        batch.created("row", "items", {"item_id": item_id, "name": name})
        return await batch.submit("log.write", records.LogLine(message=f"item {item_id} created: {name}"))

    return NewItem(item_id=item_id, name=name, task_id=await tasks.write(write))


async def logged_query(tasks: Tasks, item_id: PathItem, q: MaybeMessage = None) -> str | None:
    """
    Writes the query to the log, where there is one; the task's id.
    """
    if q is None:
        return None
    return await tasks.submit("log.write", records.LogLine(message=f"query: {q}"))


@router.post("/process/{item_id}", status_code=202, responses=problems("bad_parameter"))
async def process_item(
    item_id: PathItem,
    logged: Annotated[str | None, Depends(logged_query)],
    tasks: Tasks,
    q: MaybeMessage = None,
) -> ItemProcessing:
    """
    Processes an item after its query was logged.
    """
    line = records.LogLine(message=f"item {item_id} processed")
    own = await tasks.write(lambda batch: batch.submit("log.write", line, after=logged))
    return ItemProcessing(item_id=item_id, query=q, task_ids=[own] if logged is None else [logged, own])
