"""
Files that come in, and files that go out.
"""

import os
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import insert, select

from modern_fastapi.clock import as_text
from modern_fastapi.dependencies import AllServices, Tasks
from modern_fastapi.downloads import Download
from modern_fastapi.errors import Refusal, problems
from modern_fastapi.fields import Format, path_id
from modern_fastapi.models import Exporting, Uploaded
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.schema import Export, Status, Task, Upload
from modern_fastapi.services import Services
from modern_fastapi.tasks import documents
from modern_fastapi.tasks.submissions import Batch
from modern_fastapi.uploads import receive

router = APIRouter(route_class=StrictRoute, default_response_class=Json)

UploadId = Annotated[str, *path_id("upload")]
ExportId = Annotated[str, *path_id("export")]

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            }
        },
    }
}


def _file(*media_types: str) -> dict[int | str, dict[str, Any]]:
    # Of JSON a range may be anything.
    content = {name: {"schema": {"type": "string"} if name.startswith("text/") else {}} for name in media_types}
    refused = problems("not_found", "not_ready")
    return {
        200: {"description": "The file", "content": content},
        206: {"description": "One range of the file", "content": content},
        304: {"description": "The client has it already"},
        **refused,
        416: {**refused["default"], "description": "There is no such range"},
    }


@router.post(
    "/upload",
    status_code=202,
    openapi_extra=UPLOAD_BODY,
    responses=problems("bad_field", "too_large", "bad_media_type"),
)
async def upload(request: Request, services: AllServices, tasks: Tasks) -> Uploaded:
    """
    Takes a text file, and turns it into upper case with a count of its lines, words and bytes.
    """
    upload_id = str(uuid.uuid4())
    name = f"uploads/{upload_id}"
    final = services.files.path(name)
    async with receive(request, services.files, name, services.settings.upload_limit) as received:
        os.replace(received.path, final)

        async def write(batch: Batch) -> str:
            task_id = await batch.submit("file.process", documents.UploadedFile(upload_id=upload_id))
            values = {"upload_id": upload_id, "filename": received.filename, "size": received.size, "task_id": task_id}
            await batch.connection.execute(insert(Upload), {**values, "created_at": as_text(services.clock.now())})
            batch.created("row", "uploads", {"filename": received.filename, "size": received.size})
            batch.created("file", name, received.size)
            return task_id

        try:
            task_id = await tasks.write(write)
        except Exception:
            final.unlink(missing_ok=True)
            raise
        # Where we are cancelled the row may be written, and needs its file; one without a row is cleaned up.
    return Uploaded(upload_id=upload_id, filename=received.filename, task_id=task_id)


@router.get("/upload/{upload_id}", status_code=200, response_class=Download, responses=_file("text/plain"))
async def download_upload(upload_id: UploadId, services: AllServices) -> Download:
    """
    The processed file.
    """
    wanted = select(Upload.upload_id, Task.status).join(Task, Task.id == Upload.task_id)
    await _ready(services, wanted.where(Upload.upload_id == upload_id), "upload")
    path = services.files.path(f"processed/{upload_id}.txt")
    return Download(services.files, path, "text/plain; charset=utf-8")


@router.post("/export", status_code=202, responses=problems("bad_parameter"))
async def export(
    services: AllServices, tasks: Tasks, form: Annotated[Format, Query(alias="format")] = "csv"
) -> Exporting:
    """
    Starts an export of the tasks table.
    """
    export_id = str(uuid.uuid4())

    async def write(batch: Batch) -> str:
        task_id = await batch.submit("export.data", documents.WantedExport(export_id=export_id, format=form))
        values = {"export_id": export_id, "format": form, "task_id": task_id}
        await batch.connection.execute(insert(Export), {**values, "created_at": as_text(services.clock.now())})
        batch.created("row", "exports", {"export_id": export_id, "format": form})
        return task_id

    return Exporting(export_id=export_id, task_id=await tasks.write(write))


@router.get(
    "/export/{export_id}", status_code=200, response_class=Download, responses=_file("text/csv", "application/json")
)
async def download_export(export_id: ExportId, services: AllServices) -> Download:
    """
    The export, to be saved.
    """
    wanted = select(Export.format, Task.status).join(Task, Task.id == Export.task_id)
    form = await _ready(services, wanted.where(Export.export_id == export_id), "export")
    name = f"{export_id}.{form}"
    attachment = {"Content-Disposition": f'attachment; filename="export-{name}"'}
    return Download(services.files, services.files.path(f"exports/{name}"), MEDIA_TYPES[form], attachment)


async def _ready(services: Services, wanted: Any, what: str) -> str:
    async with services.database.read() as connection:
        row = (await connection.execute(wanted)).first()
    if row is None:
        raise Refusal("not_found", f"no such {what}")
    first, status = row
    if status in (Status.FAILURE, Status.CANCELLED):
        raise Refusal("not_ready", f"its task ended {status}")
    if status != Status.SUCCESS:
        raise Refusal("not_ready", "not ready yet")
    return str(first)
