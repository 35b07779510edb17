"""
Tasks: one, many, and the end of one.
"""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Row, select

from modern_fastapi.dependencies import AllServices, Store
from modern_fastapi.errors import Refusal, problems
from modern_fastapi.fields import UUID, Limit, MaybeEventId, MaybeStatus, MaybeTaskId, MaybeTaskName, path_id
from modern_fastapi.models import Cancelling, TaskPage, TaskState
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.schema import Task
from modern_fastapi.tasks.context import Cancelled

router = APIRouter(route_class=StrictRoute, default_response_class=Json)

# Starlette would add a charset to the type, which event streams don't have.
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}

TaskId = Annotated[str, *path_id("task")]

SHOWN = select(
    Task.id,
    Task.name,
    Task.status,
    Task.attempts,
    Task.progress,
    Task.result,
    Task.error,
    Task.created_at,
    Task.started_at,
    Task.finished_at,
)


def _state(row: Row[*tuple[Any, ...]]) -> TaskState:
    values = dict(row._mapping)
    values["result"] = None if row.result is None else json.loads(row.result)
    return TaskState(**values)


@router.get("/task/{task_id}", responses=problems("not_found"))
async def show_task(task_id: TaskId, store: Store) -> TaskState:
    """
    Where a task stands.
    """
    async with store.read() as connection:
        row = (await connection.execute(SHOWN.where(Task.id == task_id))).first()
    if row is None:
        raise Refusal("not_found", "no such task")
    return _state(row)


@router.delete("/task/{task_id}", status_code=202, responses=problems("not_found", "finished"))
async def cancel_task(task_id: TaskId, services: AllServices) -> Cancelling:
    """
    Cancels a waiting task at once, and asks a running one to stop.
    """
    async with services.database.write() as connection:
        known = (await connection.execute(select(Task.id).where(Task.id == task_id))).scalar()
        status = await services.rows.cancel(connection, task_id)
    if known is None:
        raise Refusal("not_found", "no such task")
    if status is None:
        raise Refusal("finished", "the task has finished")
    services.runner.stop(task_id, Cancelled)
    return Cancelling(id=task_id, status=status.value)


@router.get(
    "/events",
    status_code=200,
    response_class=Response,
    responses={
        200: {"description": "Changes of tasks", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems("bad_parameter"),
    },
)
async def follow(
    request: Request, services: AllServices, last: Annotated[MaybeEventId, Header(alias="Last-Event-ID")] = None
) -> Response:
    """
    Changes of tasks as they happen; ``Last-Event-ID`` resumes where a stream broke off.
    """
    after = await services.events.newest() if last is None else int(last)
    if request.scope.get("jobs.head"):
        return Response(headers=STREAM_HEADERS)
    return StreamingResponse(services.events.stream(after, services.settings.heartbeat), headers=STREAM_HEADERS)


@router.get("/tasks", responses=problems("bad_parameter"))
async def list_tasks(
    store: Store,
    status: Annotated[MaybeStatus, Query()] = None,
    name: Annotated[MaybeTaskName, Query()] = None,
    limit: Annotated[Limit, Query()] = 100,
    after: Annotated[MaybeTaskId, Query()] = None,
) -> TaskPage:
    """
    Tasks, oldest first, a page at a time.
    """
    wanted = SHOWN.order_by(Task.seq).limit(limit + 1)
    if status is not None:
        wanted = wanted.where(Task.status == status)
    if name is not None:
        wanted = wanted.where(Task.name == name)
    async with store.read() as connection:
        if after is not None:
            found = select(Task.seq).where(Task.id == after)
            seq = (await connection.execute(found)).scalar() if UUID.fullmatch(after) else None
            if seq is None:
                raise Refusal("bad_parameter", "after: no such task")
            wanted = wanted.where(Task.seq > seq)
        rows = (await connection.execute(wanted)).all()
    page = [_state(row) for row in rows[:limit]]
    return TaskPage(tasks=page, next=page[-1].id if len(rows) > limit else None)
