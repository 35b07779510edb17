"""
The key of the secrets' tokens: one for all processes of a state, and nobody else's.
"""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.errors import StateError
from bridge.state.key import key_path, redaction_key
from bridge.state.store import Store
from tests.contract.servers import environment

TOKEN = """
import sys
from pathlib import Path
from bridge.parity import Redactor
from bridge.state.key import redaction_key
print(Redactor(redaction_key(sys.argv[1], Path())).token("hunter2"))
"""


def test_processes_and_restarts_have_one_key(tmp_path: Path) -> None:
    """
    Several that start at once on a new state, and one that starts later, give a secret the same token.

    Seen to fail with a key made by each process, and with a file that is written in place.
    """
    url = f"sqlite:///{tmp_path / 'state.db'}"
    Store.open(url).close()
    command = [sys.executable, "-c", TOKEN, url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) for _ in range(4)]
    tokens = [process.communicate()[0] for process in running]
    later = subprocess.run(command, stdout=subprocess.PIPE, env=environment(), check=True).stdout

    assert {later} == set(tokens)
    assert later.startswith(b"<secret ")
    assert ["state.db", "state.db.key"] == sorted(p.name for p in tmp_path.iterdir() if "wal" not in p.name)[:2]


def test_the_key_is_its_users_alone(tmp_path: Path) -> None:
    """
    Nobody else may read the file, and the database doesn't have what it holds.
    """
    url = f"sqlite:///{tmp_path / 'state.db'}"
    Store.open(url).close()

    key = redaction_key(url, tmp_path)

    path = tmp_path / "state.db.key"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    database = (tmp_path / "state.db").read_bytes()
    assert key not in database and key.hex().encode() not in database
    assert [] == [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_another_databases_key_lies_beside_the_policy(tmp_path: Path) -> None:
    """
    A server of databases has no folder of ours.
    """
    url = "postgresql://user@host/name"

    assert tmp_path / "bgserver.key" == key_path(url, tmp_path)
    assert redaction_key(url, tmp_path) == redaction_key(url, tmp_path)


@pytest.mark.parametrize("text", ["", "no key", "00ff"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """
    With its name and the remedy: what stands in it isn't guessed.
    """
    path = tmp_path / "state.db.key"
    path.write_text(text)

    with pytest.raises(StateError, match=r"state\.db\.key can't be used .* remove it"):
        redaction_key(f"sqlite:///{tmp_path / 'state.db'}", tmp_path)


def test_where_no_file_can_be_made_the_process_has_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Evidence is no reason not to serve; it is said.
    """
    url = f"sqlite:///{tmp_path / 'nowhere' / 'state.db'}"

    assert redaction_key(url, tmp_path) != redaction_key(url, tmp_path)
    assert "other tokens after each start" in caplog.text
