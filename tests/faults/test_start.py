"""
What cannot start says why in one line, ends with a status other than 0, and leaves nothing running.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract import servers
from tests.contract.servers import TARGETS, Server, Target, environment, script, start

ON_SQLITE = [target for target in TARGETS if target.store == "sqlite"]
HARNESSED = [target for target in ON_SQLITE if target.through != "alone"]
OWNED = HARNESSED[0]

pytestmark = pytest.mark.slow

# What uvicorn and twistd say of themselves around the line that the application says.
SERVERS = re.compile(r"INFO: .*|ERROR: +Application startup failed\. Exiting\.|\S+ \[(?:\S+#info|-)\] .*")


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is tested here is the start, with all that a user's has.
    """
    monkeypatch.setattr(servers, "COLD", True)


def ids(targets: list[Target]) -> list[str]:
    return [target.name for target in targets]


def children(group: int) -> list[str]:
    """
    The processes of a group that still run.
    """
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True).stdout
    lines = (line.split(None, 2) for line in listed.splitlines())
    return [line[2] for line in lines if line[0] == str(group) and not line[1].startswith("Z")]


def refused(server: Server, *words: str) -> None:
    """
    Hold a server that was started in vain to the promise above; `words` must stand in its one line.
    """
    try:
        status = server.process.wait(20)
        left = children(server.process.pid)
    finally:
        server.kill()
    said = [line for line in server.said().splitlines() if line.strip() and not SERVERS.fullmatch(line)]

    assert status not in (0, None), server.last_words()
    assert 1 == len(said), server.last_words()
    for word in words:
        assert word.lower() in said[0].lower()
    assert [] == left


def occupied(folder: Path) -> dict[str, str]:
    (folder / "file").write_text("a file, no folder")
    return {"JOBS_DATA": str(folder / "file" / "data")}


def newer(folder: Path) -> dict[str, str]:
    (folder / "data").mkdir()
    with closing(sqlite3.connect(folder / "data" / "jobs.db")) as database:
        database.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        database.execute("INSERT INTO schema_version VALUES (9999)")
        database.commit()
    return {}


def no_database(folder: Path) -> dict[str, str]:
    (folder / "data").mkdir()
    (folder / "data" / "jobs.db").write_bytes(b"this is no database, whatever its name says" * 100)
    return {}


def is_a_folder(folder: Path) -> dict[str, str]:
    (folder / "data" / "jobs.db").mkdir(parents=True)
    return {}


APPLICATION: dict[str, tuple[Callable[[Path], dict[str, str]], tuple[str, ...]]] = {
    "a word for a number": (lambda folder: {"JOBS_WORKERS": "ten"}, ("workers", "ten")),
    "a number out of range": (lambda folder: {"JOBS_POLL": "-1"}, ("poll", "-1")),
    "an unknown setting": (lambda folder: {"JOBS_WROKERS": "10"}, ("wrokers",)),
    "an unknown loop": (lambda folder: {"JOBS_LOOPS": "consumer,dreamer"}, ("loops", "dreamer")),
    "an unknown engine": (lambda folder: {"JOBS_ENGINE": "steam"}, ("engine", "steam")),
    "an unknown database": (lambda folder: {"JOBS_DATABASE": "mysql://x/y"}, ("database", "mysql")),
    "a settings file that is missing": (lambda folder: {"JOBS_FILE": str(folder / "no.toml")}, ("no.toml",)),
    "a folder that cannot be written": (occupied, ("data", "file")),
    "a database of a newer schema": (newer, ("9999",)),
    "a database that is none": (no_database, ("jobs.db",)),
    "a folder in the database's place": (is_a_folder, ("jobs.db",)),
    "a PostgreSQL that is not there": (
        lambda folder: {"JOBS_DATABASE": "postgresql://nobody@127.0.0.1:1/none"},
        ("127.0.0.1",),
    ),
}


@pytest.mark.parametrize("fault", APPLICATION)
@pytest.mark.parametrize("target", ON_SQLITE[:2], ids=ids(ON_SQLITE[:2]))
def test_an_application_that_cannot_run_is_refused(target: Target, fault: str, tmp_path: Path) -> None:
    """
    Wrong settings, an unusable folder and an unusable database.
    """
    arrange, words = APPLICATION[fault]
    settings = arrange(tmp_path)

    refused(start(target, tmp_path, settings), *words)


@pytest.mark.parametrize(
    "fault", ["a word for a number", "a folder that cannot be written", "a database of a newer schema"]
)
@pytest.mark.parametrize("target", HARNESSED[:3:2], ids=ids(HARNESSED[:3:2]))
def test_an_application_that_cannot_run_stops_the_harness(target: Target, fault: str, tmp_path: Path) -> None:
    """
    What refuses to start alone refuses under bgserver, in both ownership modes.
    """
    arrange, words = APPLICATION[fault]
    settings = arrange(tmp_path)

    refused(start(target, tmp_path, settings), *words)


def test_a_setting_of_modern_alone_is_refused_under_bgserver_too(tmp_path: Path) -> None:
    """
    Legacy is ready by the time that modern is asked, and must not be left running: modern's own setting is wrong here.
    """
    server = start(OWNED, tmp_path, {}, policy=POLICY.format(folder=tmp_path, more='[modern.settings]\nworkers = "x"'))

    refused(server, "workers")


@pytest.mark.parametrize("target", ON_SQLITE, ids=ids(ON_SQLITE))
def test_a_port_in_use_is_refused(target: Target, tmp_path: Path) -> None:
    """
    The port's owner goes on undisturbed, and no loop has run for nothing.
    """
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]

        refused(start(target, tmp_path, {}, port=port), str(port), "in use")


@pytest.mark.parametrize("long", [False, True])
def test_a_daemon_that_finds_its_port_in_use_says_so(long: bool, tmp_path: Path) -> None:
    """
    On the terminal, with the cause uncut however long the address is, and in one line of its log.  Breaks where
    the exception is left to twistd: it cuts off its end, and leaves a traceback.
    """
    with socket.create_server(("127.0.0.1", 0)) as owner:
        address = f"tcp:{owner.getsockname()[1]}:interface=127.0.0.1" + (":backlog=" + "0" * 80 + "50") * long
        pidfile = tmp_path / "twistd.pid"
        command = [*script("twistd"), f"--pidfile={pidfile}", "bgserver", "--listen", address]
        command += ["--legacy", "tests.faults.two_hellos:make_root"]

        ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
        while pidfile.exists():
            time.sleep(0.01)

    log = (tmp_path / "twistd.log").read_text()
    said = [line for line in log.splitlines() if "Can't listen on" in line]
    assert 1 == ended.returncode
    assert "An error has occurred: b'Address already in use: tcp:" in ended.stderr
    assert "Traceback" not in log + ended.stderr
    assert 1 == len(said), log
    assert f"Can't listen on {address}: Address already in use. Stop what uses it" in said[0]


POLICY = """\
listen = ["tcp:0:interface=127.0.0.1"]
state = "sqlite:///{folder}/bgserver.db"
[legacy]
app = "legacy_twisted.server:make_service"
[modern]
app = "modern_fastapi.app:create_app"
{more}
"""

POLICIES = {
    "no TOML": ("[[[", ("bgserver.toml",)),
    "an unknown key": ("[routes]\nstagee = 'legacy'", ("bgserver.toml", "routes", "stagee")),
    "an unknown stage": ("[routes]\nstage = 'ready'", ("bgserver.toml", "routes.stage", "ready")),
    "a number for a text": ("[routes]\nstage = 1", ("bgserver.toml", "routes.stage")),
    "a weight over 100": (
        "[[route]]\nmatch = 'GET /'\nstage = 'canary'\ncanary = { weight = 101 }",
        ("bgserver.toml", "weight"),
    ),
    "a pattern that is none": ("[[route]]\nmatch = 'GET'\nstage = 'legacy'", ("bgserver.toml", "match")),
    "two routes of one name": ("[[route]]\nmatch = 'GET /'\n[[route]]\nmatch = 'GET /'", ("bgserver.toml", "GET /")),
    "a loop without a name": ("[[loop]]\nlegacy = 'service:consumer'", ("bgserver.toml", "loop")),
}


@pytest.mark.parametrize("fault", POLICIES)
def test_a_broken_policy_is_refused(fault: str, tmp_path: Path) -> None:
    """
    The line names the file and the place in it.
    """
    more, words = POLICIES[fault]

    refused(start(OWNED, tmp_path, {}, policy=POLICY.format(folder=tmp_path, more=more)), *words)


@pytest.mark.parametrize(("side", "app"), [("legacy", "legacy_twisted.server"), ("modern", "modern_fastapi.app")])
def test_an_application_that_the_file_names_is_refused_by_its_key(side: str, app: str, tmp_path: Path) -> None:
    """
    Nobody looks for an option that he never gave.
    """
    text = POLICY.format(folder=tmp_path, more="").replace(app, "nowhere")

    refused(start(OWNED, tmp_path, {}, policy=text), f"bgserver.toml: {side}.app 'nowhere")


def test_a_broken_policy_is_refused_by_uvicorn_too(tmp_path: Path) -> None:
    """
    The same line where uvicorn owns the process.
    """
    more, words = POLICIES["an unknown stage"]

    refused(start(HARNESSED[2], tmp_path, {}, policy=POLICY.format(folder=tmp_path, more=more)), *words)


STATES = {
    "a folder that is missing": ("sqlite:///{folder}/nowhere/state.db", ("state",)),
    "a file that is no database": ("sqlite:///{folder}/text", ("text",)),
    "a kind that nobody knows": ("mysql://x/y", ("mysql",)),
}


@pytest.mark.parametrize("fault", STATES)
def test_a_state_that_cannot_be_opened_is_refused(fault: str, tmp_path: Path) -> None:
    """
    Without its state a server does not know who answers: it does not start.
    """
    (tmp_path / "text").write_text("this is no database\n" * 1000)
    url, words = STATES[fault]
    text = POLICY.format(folder=tmp_path, more="").replace(
        f"sqlite:///{tmp_path}/bgserver.db", url.format(folder=tmp_path)
    )

    refused(start(OWNED, tmp_path, {}, policy=text), *words)


def test_a_state_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """
    A newer program wrote it, and knows what stands in it; this one does not guess.
    """
    server = start(OWNED, tmp_path, {}).listening()
    assert 0 == server.stop()
    with closing(sqlite3.connect(tmp_path / "bgserver.db")) as state:
        state.execute("UPDATE bgserver_meta SET value = 9999 WHERE name = 'schema'")
        assert 1 == state.execute("SELECT changes()").fetchone()[0]
        state.commit()
    server.log.unlink()

    refused(start(OWNED, tmp_path, {}), "9999", "newer")


def test_the_worst_night_needs_no_state(tmp_path: Path) -> None:
    """
    With BGSERVER_FORCE_LEGACY=1 a state that cannot be opened stops nobody.
    """
    text = POLICY.format(folder=tmp_path, more="[routes]\nstage = 'modern'").replace(
        f"{tmp_path}/bgserver.db", f"{tmp_path}/nowhere/state.db"
    )

    server = start(OWNED, tmp_path, {"BGSERVER_FORCE_LEGACY": "1"}, policy=text).listening()

    assert 0 == server.stop()


OPTIONS = {
    "an unknown option": (("--nonsense",), ("nonsense",)),
    "an option without its value": (("--config",), ("config",)),
    "a word that is no option": (("serve",), ("serve",)),
    "an unknown loop": (("--loop", "epoll"), ("epoll", "uvloop")),
    "an unknown front": (("--front", "nginx"), ("nginx", "uvicorn")),
    "an address that is none": (("--listen", "8000"), ("8000",)),
    "an admin address that is none": (("--admin", "maybe"), ("maybe",)),
    "an application that is not there": (("--legacy", "nothing.at:all"), ("nothing",)),
    "a name that is not there": (("--legacy", "legacy_twisted.server:make_servic"), ("make_servic",)),
    "a policy that is not there": (("--config", "no.toml"), ("no.toml",)),
    "a .tac that is not there": (("--legacy", "no.tac"), ("no.tac", "--legacy")),
    "a site where legacy listens nowhere": (
        ("--legacy", "tests.faults.two_hellos:make_root", "--site", "1.2.3.4:5"),
        ("--site", "1.2.3.4:5"),
    ),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_a_wrong_option_is_refused(fault: str, tmp_path: Path) -> None:
    """
    The line names the option or its value, without a page of usage.
    """
    arguments, words = OPTIONS[fault]
    command = [*script("twistd"), f"--pidfile={tmp_path / 'twistd.pid'}", "-n", "bgserver", *arguments]
    env = environment(JOBS_DATA=str(tmp_path / "data"), JOBS_LISTEN="tcp:0:interface=127.0.0.1")

    refused(Server.start(command, tmp_path, env, tmp_path / "server.log"), *words)
    assert not (tmp_path / "data").exists() or not os.listdir(tmp_path / "data")
