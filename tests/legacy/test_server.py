"""
The whole server as a process: it starts in one piece or says in one line why not, loses nothing, and stops in time.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.legacy.running import ROOT, Running


@pytest.fixture
def server(tmp_path):
    with Running(tmp_path) as running:
        yield running


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_another_reactor_can_be_installed_first():
    """
    Importing the server, or reading its .tac file's imports, chooses no reactor.
    """
    modules = sorted(path.stem for path in (ROOT / "legacy_twisted").glob("*.py") if path.stem != "__init__")
    imports = "; ".join(f"import legacy_twisted.{name}" for name in modules)

    assert "False\n" == python(f"import sys; {imports}; print('twisted.internet.reactor' in sys.modules)")


def test_twisted_is_all_it_needs():
    """
    Neither the harness, nor FastAPI, SQLAlchemy or anything else of the modern side is imported.
    """
    code = (
        "import sys, legacy_twisted.server\n"
        "foreign = {'bridge', 'modern_fastapi', 'fastapi', 'starlette', 'sqlalchemy', 'pydantic', 'psycopg'}\n"
        "print(sorted(foreign & set(sys.modules)))"
    )

    assert "[]\n" == python(code)


def test_no_thread_before_the_start(tmp_path):
    """
    twistd forks after it has read the .tac file: a pool that was made before has no threads afterwards, and hangs.

    Seen to fail with the pool made in Database.__init__ and started.
    """
    code = (
        "import threading; from legacy_twisted.server import make_service\n"
        f"make_service({{'data': {str(tmp_path / 'd')!r}}})\n"
        "print(threading.active_count())"
    )

    assert "1\n" == python(code)


def test_daemonized(tmp_path):
    """
    Without -n the server forks and goes on in the background, threads, loops and all.
    """
    port = free_port()
    environ = {
        **os.environ,
        "JOBS_LISTEN": f"tcp:{port}:interface=127.0.0.1",
        "JOBS_DATA": str(tmp_path / "data"),
    }
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    options = [f"--pidfile={tmp_path}/pid", f"--logfile={tmp_path}/log", "-y", f"{ROOT}/legacy_twisted/server.tac"]

    subprocess.run(command + options, env=environ, check=True, timeout=60)

    running = Running.__new__(Running)
    running.log, running.began = tmp_path / "log", 0
    running.process = argument = Daemon(int((tmp_path / "pid").read_text()))
    try:
        _, answer = running.ask("POST", "/log?message=daemon")
        assert "SUCCESS" == running.ended(answer["task_id"])["status"]
    finally:
        argument.end()


class Daemon:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> None:
        os.kill(self.pid, 0)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        for _ in range(1000):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 0)
                time.sleep(0.01)
                continue
            return
        raise AssertionError("it didn't end")


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("workers", "many", "jobs: setting workers = 'many': give a whole number"),
        ("grace", "-1", "jobs: setting grace = '-1': give 0 to 3600 seconds"),
        ("smtp_starttls", "maybe", "jobs: setting smtp_starttls = 'maybe': give true or false"),
        ("loops", "consumer,nothing", "jobs: setting loops = 'nothing': the loops are consumer, rescue,"),
        ("engine", "steam", "jobs: setting engine = 'steam': the engines are table,"),
        ("database", "mysql://x", "jobs: setting database = 'mysql://x': give sqlite:///PATH or postgresql://"),
        ("listen", "carrier:pigeon", "jobs: setting listen = 'carrier:pigeon': Unknown endpoint type"),
        ("nothing", "x", "jobs: setting nothing = 'x': no such setting"),
        ("data", "/proc/nowhere", "jobs: setting data = '/proc/nowhere': the folder /proc/nowhere"),
        ("file", "/nowhere.toml", "jobs: setting JOBS_FILE = '/nowhere.toml': give a readable TOML file"),
        ("database", "postgresql://u:pass@127.0.0.1:1/x", "jobs: cannot open the database postgresql://u@127.0.0.1:1/x"),
    ],
)
def test_refused_in_one_line(tmp_path, setting, value, says):
    """
    A wrong setting ends the start with one line that names it, and status 1.
    """
    with Running(tmp_path, **{setting: value}) as running:
        status = running.process.wait(30)

    said = [line for line in running.said().splitlines() if "jobs: " in line]
    assert 1 == status
    assert 1 == len(said), running.said()
    assert says in said[0]
    assert "Traceback" not in running.said()


def test_a_port_in_use(tmp_path):
    """
    One line for that too.
    """
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Running(tmp_path, listen=f"tcp:{port}:interface=127.0.0.1") as running:
            assert 1 == running.process.wait(30)

    assert "Traceback" not in running.said()
    assert "Address already in use" in running.said()


def test_a_file_of_settings(tmp_path):
    """
    JOBS_FILE names a TOML file; the environment wins over it.
    """
    (tmp_path / "jobs.toml").write_text('data = "elsewhere"\nupload_limit = 10\nworkers = 2\n')
    with Running(tmp_path, file="jobs.toml", upload_limit="20") as running:
        connection = running.connect()
        connection.request("POST", "/upload", bytes(21), {"Content-Type": "multipart/form-data; boundary=B"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        running.stop()

    assert "the body is larger than 20 bytes" == answer["message"]
    assert (tmp_path / "elsewhere" / "jobs.db").exists()


def test_stopping_is_quick_and_tidy(server):
    """
    Idle or with streams open it ends at once; what was stopped says so, and its row of the process is gone.
    """
    stream = server.connect()
    stream.request("GET", "/events")
    answer = stream.getresponse()
    first = answer.read(13)

    took = server.stop()

    rest = answer.read()
    stream.close()
    assert (b"retry: 2000\n\n", b"") == (first, rest)
    assert took < 5
    with contextlib.closing(sqlite3.connect(server.folder / "data" / "jobs.db")) as database:
        states = {row[0] for row in database.execute("SELECT state FROM loops")}
        assert {"stopped"} == states
        assert [] == database.execute("SELECT * FROM processes").fetchall()
    assert "Unhandled" not in server.said()
    assert "Traceback" not in server.said()


def test_interrupted_at_the_terminal(server):
    """
    Ctrl-C reaches the children of the pool too; they leave it to the server to end them, without a word.
    """
    task = server.ask("POST", "/compute", {"n": 100})[1]["task_id"]
    server.ended(task)
    for pid in children(server.process.pid):
        os.kill(pid, signal.SIGINT)

    took = server.stop(signal.SIGINT)

    assert took < 5
    assert "Traceback" not in server.said()


def test_draining(server):
    """
    While the server stops, a connection that is open gets 503 with Retry-After, and what was begun is finished.
    """
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    slow.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    slow.recv(1000)
    kept = server.connect()
    kept.request("GET", "/")
    kept.getresponse().read()
    _, answer = server.ask("POST", "/unstable", {"failures": 0})
    server.ended(answer["task_id"])
    # A task that runs, so that the stop takes a moment.
    _, busy = server.ask("POST", "/compute", {"n": 10_000_000})
    time.sleep(0.2)

    server.process.send_signal(signal.SIGTERM)
    statuses = []
    with contextlib.suppress(OSError, http.client.HTTPException):
        for _ in range(200):
            kept.request("GET", "/healthz")
            response = kept.getresponse()
            response.read()
            statuses.append((response.status, response.getheader("Retry-After")))
            if response.status == 503:
                break
            time.sleep(0.005)
    server.process.wait(30)
    kept.close()
    slow.close()

    assert (503, "5") == statuses[-1]
    assert busy["task_id"]


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path):
    """
    Killed at random moments while tasks are accepted: each accepted task ends SUCCESS, and none runs again after that.
    """
    dice = random.Random(7)
    accepted = []
    for _ in range(6):
        with Running(tmp_path) as running:
            connection = running.connect()
            last = dice.randrange(2, 20)
            death = threading.Timer(dice.uniform(0.0, 0.01), running.process.kill)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                for number in itertools.count():
                    if number == last:
                        death.start()
                    connection.request("POST", f"/log?message=m{len(accepted)}")
                    answer = json.loads(connection.getresponse().read())
                    accepted.append(answer["task_id"])
            connection.close()
            death.join()
    with Running(tmp_path) as running:
        ended = {taskId: running.ended(taskId)["status"] for taskId in accepted}
        running.stop()

    assert len(accepted) > 10
    assert {"SUCCESS"} == set(ended.values())
    lines = [json.loads(line)["task_id"] for line in (tmp_path / "data" / "app.log").read_text().splitlines()]
    assert len(set(lines)) == len(lines)
    assert set(accepted) <= set(lines)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "jobs.db")) as database:
        after = database.execute(
            "SELECT count(*) FROM events e JOIN events s ON s.task_id = e.task_id"
            " WHERE s.status = 'SUCCESS' AND e.seq > s.seq"
        ).fetchone()
    assert (0,) == after


def test_a_killed_child_of_the_pool(server):
    """
    A process of the pool that is killed takes no task along: the pool is made again.
    """
    first = server.ask("POST", "/compute", {"n": 100})[1]["task_id"]
    server.ended(first)
    killed = children(server.process.pid)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    again = server.ask("POST", "/compute", {"n": 1000})[1]["task_id"]

    assert killed
    assert {"count": 168} == server.ended(again)["result"]


def test_the_pool_ends_with_a_killed_server(server):
    """
    kill -9 leaves no process of the pool behind: each hears that its parent is gone.

    Seen to fail without the thread that waits for the parent.
    """
    server.ended(server.ask("POST", "/compute", {"n": 100})[1]["task_id"])
    left = children(server.process.pid)

    server.process.kill()

    assert left
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [pid for pid in left if running(pid)]
    assert [] == left


def running(pid: int) -> bool:
    """
    Whether it is there, and no zombie that nobody has reaped yet.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(parent: int) -> list[int]:
    """
    The processes of its pool.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_large_upload_in_flat_memory(server):
    """
    Bodies over the limit are refused while they arrive; what is under it goes to disk: memory doesn't grow with them.
    """
    server.ask("GET", "/healthz")
    before = memory(server)

    over = upload(server, 300 * 1024)
    under = upload(server, 60 * 1024)

    assert 413 == over[0]
    assert 202 == under[0]
    assert memory(server) - before < 32 * 1024
    result = server.ended(under[1]["task_id"])["result"]
    assert 60 * 1024 * 1024 == result["bytes"]


def upload(server, kibibytes: int):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    tail = b"\r\n--B--\r\n"
    connection.sendall(
        b"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    )
    for chunk in (head, *[b"a" * 1048575 + b"\n"] * (kibibytes // 1024), tail):
        connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    connection.sendall(b"0\r\n\r\n")
    answer = b""
    while data := connection.recv(65536):
        answer += data
    connection.close()
    return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


def memory(server) -> int:
    """
    KiB of the process.
    """
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def requestDescriptors(server) -> int:
    """
    How many sockets and uploads the process has open; its databases open and close as threads come and go.
    """
    links = []
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(descriptor))
    return sum(link.startswith("socket:") or "/uploads/" in link for link in links)


def test_clients_that_go_leave_nothing(server):
    """
    The client gone at ten points of an upload: no file, no row, no descriptor.
    """
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = head + b"line\n" * 50_000 + b"\r\n--B--\r\n"
    request = (
        b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    whole = request + body
    server.ask("GET", "/tasks")
    before = requestDescriptors(server)

    for point in range(10):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(whole[: point * len(whole) // 10 + 20])
        # Answered on another connection: what was sent before has been read.
        server.ask("GET", "/tasks")
        client.close()

    deadline = time.monotonic() + 10
    while requestDescriptors(server) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert before >= requestDescriptors(server)
    assert [] == os.listdir(server.folder / "data" / "uploads")
    assert {"tasks": [], "next": None} == server.ask("GET", "/tasks")[1]


@pytest.mark.parametrize("engine", ["table", "inline", "thread"])
def test_engines_have_one_history(tmp_path, engine):
    """
    Whoever runs a task: the same states in the same order, retries, failures and order included.
    """
    with Running(tmp_path, engine=engine) as running:
        for failures in (0, 2, 3):
            task = running.ask("POST", "/unstable", {"failures": failures})[1]["task_id"]
            assert ("SUCCESS" if failures < 3 else "FAILURE") == running.ended(task)["status"]
        _, account = running.ask("POST", "/register", {"email": "a@b.c", "name": "A"})
        for task in account["task_ids"]:
            running.ended(task)
        running.stop()

    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "jobs.db")) as database:
        rows = database.execute("SELECT task_id, status FROM events ORDER BY seq").fetchall()
        engines = {row[0] for row in database.execute("SELECT engine FROM tasks")}
        order = [row[0] for row in database.execute("SELECT name FROM events WHERE status = 'SUCCESS' ORDER BY seq")]
    histories: dict[str, list[str]] = {}
    for task, status in rows:
        histories.setdefault(task, []).append(status)
    once, retry = ["PENDING", "RUNNING", "SUCCESS"], ["RETRY", "RUNNING"]
    thrice = ["PENDING", "RUNNING", *retry, *retry]
    expected = [once, [*thrice, "SUCCESS"], [*thrice, "FAILURE"], once, once, once]
    assert expected == list(histories.values())
    assert {engine} == engines
    assert ["email.welcome", "directory.create", "admin.notify"] == order[-3:]
