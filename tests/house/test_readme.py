"""
README's promises, carried out word for word: its run command, its walk, and the ways to stop.

Only the port differs (a free one is asked for), so that the test can run beside a reader's own server.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.house.conftest import Environment, clean_environment
from tests.house.readme import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@attrs.define
class Reader:
    """
    Somebody with README in one hand: a folder with `.venv` in it, and a server that README's command started.
    """

    folder: Path
    port: int
    server: subprocess.Popen[str]
    said: list[str] = attrs.field(factory=list)

    listening: threading.Event = attrs.field(factory=threading.Event)
    ended: threading.Event = attrs.field(factory=threading.Event)

    def listens_to_it(self) -> None:
        """
        Read what the server says until it ends; on a thread, so that its pipe never fills.
        """
        assert self.server.stdout is not None
        for line in self.server.stdout:
            self.said.append(line)
            if "Listening on" in line:
                self.listening.set()
        self.ended.set()
        self.listening.set()

    def typed(self, name: str) -> subprocess.Popen[str]:
        """
        Start README's block of that name.
        """
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", commands()[name].replace(":8000/", f":{self.port}/")],
            cwd=self.folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, name: str) -> str:
        """
        Run README's block of that name to its end; what it printed.
        """
        typed = self.typed(name)
        printed, _ = typed.communicate(timeout=120)
        assert typed.returncode == 0, printed
        return printed

    def asks(self, method: str, path: str) -> tuple[int, list[str], bytes]:
        """
        Status, names of the headers as they were written, and body.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers.keys(), answer.read()
        finally:
            connection.close()

    def stops(self, how: signal.Signals) -> float:
        """
        Seconds from the signal to the end.
        """
        began = time.monotonic()
        self.server.send_signal(how)
        self.server.wait(timeout=30)
        took = time.monotonic() - began
        assert self.ended.wait(timeout=30)
        return took


@pytest.fixture
def reader(installed: Environment, tmp_path: Path) -> Iterator[Reader]:
    """
    A reader who typed the run command, and sees the server listen.
    """
    (tmp_path / ".venv").symlink_to(installed.home)
    serving = commands()["run"].split(" && ")[-1]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        f"exec {serving} --listen tcp:{port}:interface=127.0.0.1",
        shell=True,
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    reader = Reader(tmp_path, port, server)
    ear = threading.Thread(target=reader.listens_to_it)
    ear.start()
    try:
        assert reader.listening.wait(timeout=60) and not reader.ended.is_set(), "".join(reader.said)
        yield reader
    finally:
        server.kill()
        server.wait()
        ear.join()
        assert server.stdout is not None
        server.stdout.close()


def answered_by(names: list[str]) -> str:
    """
    Twisted writes header names in title case, uvicorn in lower case.
    """
    return "modern" if "content-type" in names else "legacy"


def ends(reader: Reader, task_id: str) -> str:
    """
    The status in which a task ends.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        _, _, body = reader.asks("GET", f"/task/{task_id}")
        status = json.loads(body)["status"]
        if status in {"SUCCESS", "FAILURE", "CANCELLED"}:
            return str(status)
    return "still " + status


def test_the_run_command_serves_the_example(reader):
    """
    A fresh environment, README's command, and the main job is done: a page, a task accepted, a task finished.
    """
    page = reader.asks("GET", "/")
    accepted = reader.asks("POST", "/send-notification/a@example.org?message=hi")

    assert (200, b"Hello, world!") == (page[0], page[2])
    assert 202 == accepted[0]
    assert "SUCCESS" == ends(reader, json.loads(accepted[2])["task_id"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_and_says_that_all_is_well(how, reader):
    """
    SIGTERM and Ctrl-C stop it within five seconds, with exit status 0.
    """
    reader.asks("GET", "/")

    took = reader.stops(how)

    assert 0 == reader.server.returncode, "".join(reader.said)
    assert took < 5


def test_start_up_says_where_what_and_how_to_stop(reader):
    """
    A few lines tell where it listens, what runs on which side, and how to stop it.
    """
    reader.stops(signal.SIGTERM)

    said = "".join(reader.said)

    assert f"http://127.0.0.1:{reader.port}" in said
    assert "legacy" in said
    assert "Ctrl-C" in said


def test_the_walk_moves_a_route_and_brings_it_back(reader):
    """
    README's walk: while curl asks 500 times, POST /log goes to modern and back; every answer is 202.
    """
    assert "Hello, world!" in reader.types("look")
    load = reader.typed("load")

    reader.types("move")
    moved = until_answered_by(reader, "modern")
    undone = reader.types("back")
    back = until_answered_by(reader, "legacy")
    counted, _ = load.communicate(timeout=300)

    assert (True, True) == (moved, back)
    assert ["500", "202"] == counted.split()
    assert re.search("walk", undone)


def until_answered_by(reader: Reader, side: str) -> bool:
    """
    Whether that side answers POST /log within half a minute; each answer on the way is a 202.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status, names, _ = reader.asks("POST", "/log?message=probe")
        assert 202 == status
        if answered_by(names) == side:
            return True
    return False
