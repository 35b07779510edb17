"""
What the modern application says of itself, tried out: requests made from its OpenAPI document find nothing that the
document does not say, and get the same answers from the legacy application.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.contract.cases import HEADERS
from tests.contract.servers import TARGETS, Server, start

schemathesis = pytest.importorskip("schemathesis")

# What the sides make up for themselves, and what depends on how far their workers are.
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z"), "TIME"),
    (
        re.compile(r'"status":"[A-Z]+","attempts":[0-9]+,"progress":[0-9.]+,"result":.*?,"error":.*?,"created_at"'),
        "STATE",
    ),
    (re.compile(r'"(?:started_at|finished_at)":(?:null|"TIME")'), "WHEN"),
    (re.compile(r'"owner":(?:null|"[a-z]+"),"state":"[a-z]+","age":(?:null|[0-9.]+)'), "LOOP"),
)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """
    Each application alone, on fresh data.
    """
    servers: dict[str, Server] = {}
    try:
        for target in TARGETS[:2]:
            folder: Path = tmp_path_factory.mktemp(target.name)
            servers[target.name] = start(target, folder, {"JOBS_UPLOAD_LIMIT": "1048576"})
        for server in servers.values():
            server.listening()
        yield servers
    finally:
        for server in servers.values():
            server.kill()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.address[1]}"


def comparable(response: Any) -> tuple[int, dict[str, list[str]], str]:
    """
    What the contract lists of an answer, without what no two servers have in common.
    """
    headers = {name.lower(): response.headers.get(name.lower(), []) for name in ("Content-Type", *HEADERS)}
    # Each stack has its own session for itself, by another name.
    headers.pop("set-cookie")
    body = response.content.decode("utf-8", "surrogateescape")
    for pattern, word in VOLATILE:
        body = pattern.sub(word, body)
    return response.status_code, headers, body


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_generated_requests_find_nothing_and_get_the_same_answers(sides: dict[str, Server]) -> None:
    """
    Every operation of the document but the endless one, with requests that keep to it and with some that do not.
    """
    schema = schemathesis.openapi.from_url(f"{url(sides['modern'])}/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    findings: list[str] = []
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/events":
            continue
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(
                max_examples=40,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                nonlocal tried
                tried += 1
                modern = case.call(base_url=url(sides["modern"]))
                legacy = case.call(base_url=url(sides["legacy"]))
                try:
                    case.validate_response(modern, checks=checks)
                except Exception as error:
                    findings.append(f"{case.method} {case.formatted_path}: {error}")
                if comparable(modern) != comparable(legacy):
                    findings.append(
                        f"{case.as_curl_command()}\n  modern: {comparable(modern)}\n  legacy: {comparable(legacy)}"
                    )

            try:
                attempt()
            except hypothesis.errors.Unsatisfiable:
                continue  # there is no such request: an operation without parameters can't be broken

    print(f"{tried} requests on {len(list(schema.get_all_operations()))} operations")
    assert tried > 500
    assert not findings, f"{len(findings)} findings, the first ones:\n" + "\n".join(findings[:10])
