"""
What comes in: JSON, queries and paths, taken strictly and refused in the contract's words.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from modern_fastapi.errors import Refusal
from modern_fastapi.requests import parse_json
from tests.modern.application import run, running


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 100_000,
        b"1" * 5000,
    ],
)
def test_bad_json_is_refused(body: bytes) -> None:
    """
    What other readers would choke on is no JSON here: marks, infinities, depth, and endless digits.

    Seen to fail (a 500) with RecursionError and ValueError taken out of the except clause.
    """
    with pytest.raises(Refusal, match="the body is not valid JSON"):
        parse_json(body)


def test_nesting_of_one_hundred_is_fine() -> None:
    """
    The limit counts the outermost array as one.
    """
    assert isinstance(parse_json(b"[" * 100 + b"]" * 100), list)


def test_last_of_duplicate_keys_counts() -> None:
    """
    As in Python's own reader, and in the application that this one replaces.
    """
    assert {"a": 2} == parse_json(b'{"a": 1, "a": 2}')


@pytest.mark.parametrize("n", ['"100"', "true", "1.0", "null", "[]"])
def test_integer_is_an_integer(tmp_path: Path, n: str) -> None:
    """
    A number is not made of a text, a truth or a float.

    Seen to fail with the field declared as a plain int: pydantic takes "100" and 1.0.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            answer = await one.client.post(
                "/compute", content=f'{{"n":{n}}}', headers={"Content-Type": "application/json"}
            )
        assert (400, {"error": "bad_field", "message": "n: must be an integer"}) == (answer.status_code, answer.json())

    run(scenario())


def test_numbers_are_written_as_python_writes_them(tmp_path: Path) -> None:
    """
    1e-07, not 1e-7: clients have compared the bytes.

    Seen to fail with FastAPI's default response class, which has pydantic write the JSON.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            created = await one.client.post("/log?message=a")
            task_id = created.json()["task_id"]
            async with one.services.database.write() as connection:
                await connection.exec_driver_sql("UPDATE tasks SET progress = 1e-07")
            answer = await one.client.get(f"/task/{task_id}")
        assert '"progress":1e-07,' in answer.text

    run(scenario())


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/log?message=%ff", 400, {"error": "bad_parameter", "message": "message: must be UTF-8"}),
        (
            "/log?message=a&message=",
            400,
            {"error": "bad_parameter", "message": "message: must have 1 to 1000 characters"},
        ),
        (
            "/log?message=a%00",
            400,
            {"error": "bad_parameter", "message": "message: must not contain control characters"},
        ),
        ("/log", 400, {"error": "bad_parameter", "message": "message: missing"}),
        ("/log/?message=a", 404, {"error": "not_found", "message": "no such page"}),
        ("/lo%67?message=a", 202, None),
        ("/log%0A?message=a", 404, {"error": "not_found", "message": "no such page"}),
    ],
)
def test_paths_and_queries(tmp_path: Path, path: str, status: int, body: dict[str, Any] | None) -> None:
    """
    Paths match to the letter after one decoding, without redirects; queries are UTF-8 or refused.

    Seen to fail with redirect_slashes on (307), with Starlette's own query parser (a replacement character is taken),
    and with its routing by the decoded path (`$` lets a final line end through).
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            answer = await one.client.post(path)
        assert status == answer.status_code
        assert body is None or body == answer.json()

    run(scenario())


def test_encoded_slash_stays_in_its_segment(tmp_path: Path) -> None:
    """
    `a%2Fb` is one segment, decoded once.

    Seen to fail without ExactPaths: ASGI's path has two segments there, and the answer is 404.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            answer = await one.client.post("/process/a%2Fb%2541")
        assert "a/b%41" == answer.json()["item_id"]

    run(scenario())


def test_head_and_options_and_others(tmp_path: Path) -> None:
    """
    HEAD is GET without its body, OPTIONS says what is allowed, everything else is refused with the same list.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            head = await one.client.head("/tasks")
            get = await one.client.get("/tasks")
            options = await one.client.options("/task/nonsense")
            other = await one.client.put("/task/nonsense")
        assert (b"", get.headers["content-length"]) == (head.content, head.headers["content-length"])
        assert (200, "DELETE, GET, HEAD, OPTIONS", b"") == (
            options.status_code,
            options.headers["allow"],
            options.content,
        )
        assert "content-type" not in options.headers
        assert (405, "DELETE, GET, HEAD, OPTIONS") == (other.status_code, other.headers["allow"])

    run(scenario())


def test_compressed_body_is_refused(tmp_path: Path) -> None:
    """
    Nobody sends a bomb: compressed bodies are not accepted at all.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            answer = await one.client.post(
                "/process", content=b"{}", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
            )
        assert (415, "compressed bodies are not accepted") == (answer.status_code, answer.json()["message"])

    run(scenario())


def test_document_tells_the_truth(tmp_path: Path) -> None:
    """
    Every operation names its errors with the body that they have, and FastAPI's 422 is nowhere.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            document = (await one.client.get("/openapi.json")).json()
        operations = [each for path in document["paths"].values() for each in path.values()]
        assert 25 == len(operations)
        assert "422" not in {status for each in operations for status in each["responses"]}
        assert "HTTPValidationError" not in json.dumps(document)
        for each in operations:
            for status, response in each["responses"].items():
                if status[0] in "45" and each["operationId"] != "healthz_healthz_get":
                    schema = response["content"]["application/json"]["schema"]
                    assert ["error", "message"] == schema["required"], (each["operationId"], status)

    run(scenario())


def test_asking_for_work_needs_no_thread_of_starlettes(tmp_path: Path) -> None:
    """
    Where forty plain functions block all the threads that Starlette has, a request that asks for work is answered.

    Seen to fail (TimeoutError) with the dependencies as plain functions.
    """

    async def scenario() -> None:
        async with running(tmp_path) as one:
            limiter = anyio.to_thread.current_default_thread_limiter()
            borrowers = [object() for _ in range(int(limiter.total_tokens))]
            for each in borrowers:
                await limiter.acquire_on_behalf_of(each)
            try:
                answer = await asyncio.wait_for(one.client.post("/log?message=a"), 5.0)
            finally:
                for each in borrowers:
                    limiter.release_on_behalf_of(each)
            assert 202 == answer.status_code

    run(scenario())
