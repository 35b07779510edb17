"""
What the modern application says of itself, tried out: requests made from its OpenAPI document find nothing that the
document does not say, and get the same answers from the legacy application.

No loop runs on either side, so that answers don't depend on how far a worker is.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis.configuration import set_hypothesis_home_dir

from tests.contract.schema_checks import comparable
from tests.contract.servers import TARGETS, Server, environment, script, start

LONG = os.environ.get("BGSERVER_LONG") == "1"
EXAMPLES = 100 if LONG else 10  # beside those that cover each keyword of each schema
SEED = 20261121

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """
    Each application alone, on fresh data.
    """
    servers: dict[str, Server] = {}
    try:
        for target in TARGETS[:2]:
            folder: Path = tmp_path_factory.mktemp(target.name)
            servers[target.name] = start(target, folder, {"JOBS_UPLOAD_LIMIT": "1048576", "JOBS_LOOPS": ""})
        for server in servers.values():
            server.listening()
        yield servers
    finally:
        for server in servers.values():
            server.kill()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.address[1]}"


@pytest.mark.timeout(3600 if LONG else 300)
def test_generated_requests_find_nothing_and_get_the_same_answers(sides: dict[str, Server], tmp_path: Path) -> None:
    """
    Every operation of the document but the endless one: each keyword of its schemas, and requests at random that keep
    to it and that do not; and chains of requests that use what the ones before gave.

    Seen to fail with another status of /log, and with another message, on one side.
    """
    env = environment(SCHEMATHESIS_HOOKS="tests.contract.schema_checks", LEGACY=url(sides["legacy"]))
    command = [*script("schemathesis"), "run", f"{url(sides['modern'])}/openapi.json", "--no-color"]
    command += ["--exclude-path=/events", "--exclude-checks=positive_data_acceptance", "--continue-on-failure"]
    command += [f"--max-examples={EXAMPLES}", f"--seed={SEED}", "--generation-database=none", "--warnings=off"]

    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    print(found.stdout)
    tried = re.search(r"([0-9]+) generated, \1 passed", found.stdout)
    assert 0 == found.returncode, found.stdout + found.stderr
    assert tried is not None and int(tried[1]) > 500, found.stdout


def opened(case: Any, server: Server) -> tuple[int, dict[str, Any], str]:
    """
    An answer to a request for events: only its head, where it is a stream.
    """
    asked = case.as_transport_kwargs(base_url=url(server))
    with contextlib.closing(requests.request(**asked, stream=True, timeout=10)) as answer:
        return comparable(answer, b"" if answer.status_code == 200 else answer.content)


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "invalid"])
def test_generated_requests_for_events_are_streamed_or_refused(
    sides: dict[str, Server], tmp_path: Path, valid: bool
) -> None:
    """
    The endless operation: what keeps to the document is a stream, what does not is refused, by both sides alike.

    Seen to fail with a `Last-Event-ID` that is any text in the document.
    """
    set_hypothesis_home_dir(tmp_path)
    operation = schemathesis.openapi.from_url(f"{url(sides['modern'])}/openapi.json")["/events"]["GET"]
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE
    statuses = []

    @hypothesis.settings(
        max_examples=200 if LONG else 30,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: Any) -> None:
        modern = opened(case, sides["modern"])
        statuses.append(modern[0])
        assert modern == opened(case, sides["legacy"]), case.headers
        assert (200 if valid else 400) == modern[0], case.headers

    try:
        attempt()
    finally:
        set_hypothesis_home_dir(None)

    assert len(statuses) > 10
