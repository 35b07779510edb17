"""
The operator's commands, on the database that the settings name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modern_fastapi.__main__ import main
from tests.modern.application import add, run, services
from tests.modern.test_rows import claim, row


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    The data folder that the environment names.
    """
    monkeypatch.setenv("JOBS_DATA", str(tmp_path))
    return tmp_path


def failed_task(data: Path) -> str:
    """
    A task that has failed for good.
    """
    ids: list[str] = []

    async def scenario() -> None:
        async with services(data) as made:
            ids.append(await add(made, max_attempts=1))
            (held,) = await claim(made)
            async with made.database.write() as connection:
                await made.rows.fail(connection, held, "RuntimeError: no")

    run(scenario())
    return ids[0]


def status(data: Path, task_id: str) -> str:
    """
    Where a task stands.
    """
    found: list[str] = []

    async def scenario() -> None:
        async with services(data) as made:
            found.append((await row(made, task_id)).status)

    run(scenario())
    return found[0]


@pytest.mark.parametrize("by_name", [False, True])
def test_dead_letters_are_listed_and_go_again(data: Path, capsys: pytest.CaptureFixture[str], by_name: bool) -> None:
    """
    What has failed for good is listed with its reason, and waits again by id or by name.
    """
    task_id = failed_task(data)

    assert 0 == main(["failed"])
    assert f"{task_id}  log.write" in capsys.readouterr().out
    assert 0 == main(["requeue", "--name", "log.write"] if by_name else ["requeue", task_id])
    assert "1 of 1 tasks wait again" in capsys.readouterr().out
    assert "PENDING" == status(data, task_id)
    assert 1 == main(["failed"])


def test_paused_name_can_be_resumed(data: Path) -> None:
    """
    A pause holds for every process that claims, until it is taken back.
    """
    main(["pause", "log.write"])
    counts: list[int] = []

    async def scenario() -> None:
        async with services(data) as made:
            await add(made)
            counts.append(len(await claim(made)))

    run(scenario())
    main(["resume", "log.write"])
    main(["limit", "log.write", "--concurrency", "1"])
    run(scenario())

    assert [0, 1] == counts
