"""
How a request is refused: ``{"error": CODE, "message": TEXT}`` and a status, always, whoever refuses.

FastAPI's own 422 bodies and Starlette's plain texts are turned into this form here.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

Code = Literal[
    "bad_json",
    "bad_field",
    "bad_parameter",
    "not_logged_in",
    "not_found",
    "method_not_allowed",
    "conflict",
    "not_ready",
    "finished",
    "too_large",
    "bad_media_type",
    "internal",
    "draining",
]

STATUSES: Mapping[Code, int] = {
    "bad_json": 400,
    "bad_field": 400,
    "bad_parameter": 400,
    "not_logged_in": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "not_ready": 409,
    "finished": 409,
    "too_large": 413,
    "bad_media_type": 415,
    "internal": 500,
    "draining": 503,
}


BODY_CODES: tuple[Code, ...] = ("bad_json", "bad_field", "too_large", "bad_media_type")


class Problem(BaseModel):
    """
    The body of every error.
    """

    error: Code
    message: str


class Refusal(HTTPException):
    """
    Ends a request with one of the contract's errors.
    """

    def __init__(
        self, code: Code, message: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status or STATUSES[code], message, dict(headers) if headers else None)
        self.code = code

    def response(self) -> Response:
        """
        The answer itself.
        """
        body = {"error": self.code, "message": self.detail}
        return JSONResponse(body, self.status_code, headers=self.headers)


def problems(*codes: Code, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """
    The ``responses`` of a route that may refuse with these codes, or with those of a JSON ``body``; any route may
    answer 500 and 503.
    """
    # Spelled out, because FastAPI would file a model under the media type of the route's own answer.
    content = {"application/json": {"schema": Problem.model_json_schema()}}
    found: dict[int | str, dict[str, Any]] = {}
    possible: tuple[Code, ...] = (*(BODY_CODES if body else ()), *codes, "internal", "draining")
    for status in sorted({STATUSES[code] for code in possible}):
        named = [code for code in possible if STATUSES[code] == status]
        found[status] = {"description": f"{HTTPStatus(status).phrase}: {', '.join(named)}", "content": content}
    found["default"] = {"description": "Any other error", "content": content}
    return found


def install(app: FastAPI) -> None:
    """
    Makes ``app`` answer every error in the contract's form.
    """
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _other)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """
    The first error alone, named by its field. Path and query parameters are parameters, all else are fields.
    """
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, *path = first["loc"]
    code: Code = "bad_field" if place == "body" else "bad_parameter"
    name = path[0] if path else "body"
    return Refusal(code, f"{name}: {_complaint(first)}").response()


def _complaint(error: Mapping[str, Any]) -> str:
    # Everything else is checked by ``fields``, which speaks the contract's words itself.
    return "missing" if error["type"] == "missing" else str(error["msg"])


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error.__cause__, ClientDisconnect):
        # FastAPI takes a body that breaks off for one that can't be parsed; nobody is there to be told.
        raise error.__cause__
    if error.status_code == 404:
        return Refusal("not_found", "no such page").response()
    if error.status_code == 405:
        allow = dict(error.headers or {})
        return Refusal("method_not_allowed", f"{request.method} is not allowed here", headers=allow).response()
    return Refusal("bad_parameter", str(error.detail), status=error.status_code).response()
