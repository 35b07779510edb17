"""
Reading a request strictly: the query, and a JSON body within its bounds, before FastAPI sees either.

The order is the contract's: media type, size, JSON, and only then the fields, which are the models' business.
"""

import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse

from .errors import Refusal

JSON_LIMIT = 1024 * 1024
NESTING = 100


class StrictRequest(Request):
    """
    A request whose query keeps what was no UTF-8 visible, and whose body is JSON or refused.
    """

    _strict_query: QueryParams | None = None
    _strict_body: bytes | None = None

    @property
    def query_params(self) -> QueryParams:
        if self._strict_query is None:
            query = self.scope.get("query_string", b"").decode("latin-1")
            pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
            self._strict_query = QueryParams(pairs)
        return self._strict_query

    async def body(self) -> bytes:
        if self._strict_body is None:
            refuse_media_type(self, "application/json")
            self._strict_body = b"".join([piece async for piece in bounded(self, JSON_LIMIT)])
            if not self._strict_body:
                raise Refusal("bad_json", "the body is not valid JSON")
        return self._strict_body

    async def json(self) -> dict[str, Any]:
        value = parse_json(await self.body())
        if not isinstance(value, dict):
            raise Refusal("bad_json", "the body must be a JSON object")
        return value


class StrictRoute(APIRoute):
    """
    A route whose handler is given a ``StrictRequest``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


class Json(JSONResponse):
    """
    An answer in the contract's form. FastAPI's default writes some numbers in another way than Python does.
    """


def refuse_media_type(request: Request, wanted: str) -> None:
    """
    Raises ``Refusal`` for a body of another type, or a compressed one.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refusal("bad_media_type", f"the body must be {wanted}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal("bad_media_type", "compressed bodies are not accepted")


async def bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """
    The body's pieces, up to ``limit`` bytes: what says that it is longer is refused before it is read.
    """
    too_large = Refusal("too_large", f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large
        yield piece


def parse_json(body: bytes) -> Any:
    """
    Strict JSON: UTF-8 without a mark, finite numbers, and nesting that no reader stumbles over.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
        if _depth_exceeds(value, NESTING):
            raise ValueError("nested too deeply")
    except (ValueError, RecursionError) as error:
        raise Refusal("bad_json", "the body is not valid JSON") from error
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("the number is too large")
    return number


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(inner, (dict, list)) for inner in level)
