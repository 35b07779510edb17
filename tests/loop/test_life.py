"""
One order of starting and stopping, in both modes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.errors import StartError, StoppingError
from bridge.loop.life import Event, How, Life, Starting, Stopping
from bridge.loop.reactor import BridgeReactor
from tests.loop.snippets import ROOT, both_loops, run

SERVER = """
import asyncio, json, os, sys
kind, mode = sys.argv[1:3]
import bridge.loop
from bridge.loop import Life, Starting, Stopping

def steps(life):
    async def step():
        await asyncio.sleep(0)
    async def drain():
        if os.environ.get("HANG"):
            await asyncio.sleep(60)
    async def spawn():
        life.spawn(forever(), "forever")
        # Only now: a start step that outlives the test would be cancelled with it.
        print("ready", flush=True)
    async def forever():
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.append(True)
    cleaned = []
    for phase in Starting:
        life.on_start(phase, "up", step)
    life.on_start(Starting.READY, "spawn", spawn)
    for phase in Stopping:
        life.on_stop(phase, "down", drain if phase is Stopping.DRAIN else step)
    return cleaned

def show(life, cleaned):
    assert cleaned == [True], cleaned
    print(json.dumps([[type(e.phase).__name__, e.phase.value, e.step, e.how.value] for e in life.events]), flush=True)

if mode == "owned":
    reactor = bridge.loop.install(kind)
    life = Life(reactor, grace=float(os.environ.get("GRACE", "4")))
    cleaned = steps(life)
    life.bind()
    reactor.run()
    show(life, cleaned)
    sys.exit(reactor.exit_status)
else:
    import uvicorn
    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        reactor = bridge.loop.install()
        life = Life(reactor, grace=float(os.environ.get("GRACE", "4")))
        cleaned = steps(life)
        async with life.attached():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        show(life, cleaned)
        await send({"type": "lifespan.shutdown.complete"})
    uvicorn.run(app, port=0, loop=kind, log_level="error")
"""


class Server:
    """
    The server above, in a process of its own.
    """

    def __init__(self, kind: str, mode: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, kind, mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        )
        assert "ready\n" == self.process.stdout.readline(), self.process.stderr.read()

    def finish(self) -> tuple[list[list[str]], int]:
        out, err = self.process.communicate(timeout=30)
        assert out, err
        return json.loads(out), self.process.returncode


EXPECTED = [
    *(["Starting", phase.value, "up", "done"] for phase in Starting),
    ["Starting", "ready", "spawn", "done"],
    ["Stopping", "stop accepting", "down", "done"],
    ["Stopping", "drain", "down", "done"],
    ["Stopping", "close websockets", "down", "done"],
    ["Stopping", "lifespan.shutdown", "down", "done"],
    ["Stopping", "stop services", "down", "done"],
    ["Stopping", "cancel tasks", "down", "done"],
    ["Stopping", "cancel tasks", "tasks", "done"],
    ["Stopping", "close generators", "down", "done"],
    ["Stopping", "close generators", "generators", "done"],
    ["Stopping", "stop pools", "down", "done"],
    ["Stopping", "stop pools", "threads", "done"],
]


@both_loops
@pytest.mark.parametrize("mode", ["owned", "attached"])
def test_both_modes_have_one_order(loop, mode):
    """
    The event log is the same under our own loop and under uvicorn; SIGTERM ends with status 0 owned, and as bare
    uvicorn does attached.
    """
    server = Server(loop, mode)
    server.process.send_signal(signal.SIGTERM)
    events, status = server.finish()

    assert EXPECTED == events
    assert (0 if mode == "owned" else -signal.SIGTERM) == status


def test_the_grace_bounds_the_drain():
    """
    A drain that hangs is cut off at the grace, and what follows still runs. (How exactly it is kept is measured by
    the full storm; a busy machine may be slow to end a process.)
    """
    server = Server("asyncio", "owned", HANG="1", GRACE="0.5")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    events, status = server.finish()

    assert time.monotonic() - began < 30
    assert ["Stopping", "drain", "down", "timed out"] in events
    assert EXPECTED[-9:] == events[-9:]
    assert 0 == status


def test_a_second_signal_forces():
    """
    The second SIGTERM (or Ctrl-C) ends the waiting; the order stays.
    """
    server = Server("asyncio", "owned", HANG="1", GRACE="20")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGINT)
    events, status = server.finish()

    assert time.monotonic() - began < 10
    assert ["Stopping", "drain", "down", "timed out"] in events
    assert EXPECTED[-9:] == events[-9:]
    assert 0 == status


# -- inside a loop of the test's own -----------------------------------------------------------


async def _nothing() -> None:
    pass


def _lived(steps, ended=None) -> list[Event]:
    """
    Attached to a loop of our own: C{steps(life)} registers, and the events come back.
    """

    async def main() -> list[Event]:
        reactor = BridgeReactor(asyncio.get_running_loop())
        life = Life(reactor, grace=0.2)
        steps(life)
        try:
            async with life.attached():
                if ended is not None:
                    await ended(life, reactor)
        except BaseExceptionGroup:
            raise
        finally:
            lived.append(life)
        return life.events

    lived: list[Life] = []
    try:
        return asyncio.run(main())
    except StartError:
        return lived[0].events


def test_stop_steps_run_in_reverse():
    """
    Within a phase, what was registered last stops first.
    """

    def steps(life: Life) -> None:
        for name in "abc":
            life.on_stop(Stopping.SERVICES, name, _nothing)

    names = [event.step for event in _lived(steps) if event.phase is Stopping.SERVICES]

    assert ["c", "b", "a"] == names


def test_a_failing_stop_step_stops_nothing_else():
    """
    One that raises is logged, and the next phases run.
    """

    async def bad() -> None:
        raise RuntimeError("no")

    def steps(life: Life) -> None:
        life.on_stop(Stopping.DRAIN, "bad", bad)
        life.on_stop(Stopping.SERVICES, "good", _nothing)

    events = _lived(steps)

    assert Event(Stopping.DRAIN, "bad", How.FAILED) in events
    assert Event(Stopping.SERVICES, "good") in events


def test_a_failing_start_takes_everything_down_again():
    """
    If a step fails, later ones don't start, and all stop steps run.
    """

    async def bad() -> None:
        raise OSError("address in use")

    def steps(life: Life) -> None:
        life.on_start(Starting.SERVICES, "good", _nothing)
        life.on_start(Starting.LIFESPAN, "bad", bad)
        life.on_start(Starting.ACCEPT, "never", _nothing)
        life.on_stop(Stopping.SERVICES, "good", _nothing)

    events = _lived(steps)

    assert [
        Event(Starting.SERVICES, "good"),
        Event(Starting.LIFESPAN, "bad", How.FAILED),
        Event(Stopping.SERVICES, "good"),
    ] == events[:3]


def test_a_step_that_ignores_its_cancellation_is_left():
    """
    It is named, and doesn't hold the stop.
    """

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0.5)
                return
            except asyncio.CancelledError:
                pass

    events = _lived(lambda life: life.on_stop(Stopping.DRAIN, "stubborn", stubborn))

    assert Event(Stopping.DRAIN, "stubborn", How.LEFT) in events


def test_a_stop_from_within_stops_in_order():
    """
    Legacy code that calls `reactor.stop()` ends the life in order; the loop goes on.
    """

    async def ended(life: Life, reactor: BridgeReactor) -> None:
        reactor.stop()
        await life.stop()

    events = _lived(lambda life: life.on_stop(Stopping.SERVICES, "service", _nothing), ended)

    assert Event(Stopping.SERVICES, "service") in events


def test_tasks_are_refused_once_tasks_are_cancelled():
    """
    A task that nobody would cancel any more can't be spawned.
    """

    def steps(life: Life) -> None:
        async def late() -> None:
            with pytest.raises(StoppingError, match="The task late was refused"):
                life.spawn(_nothing(), "late")

        life.on_stop(Stopping.POOLS, "late", late)

    assert Event(Stopping.POOLS, "late") in _lived(steps)


# -- under twistd ------------------------------------------------------------------------------

TAC = """
from twisted.application import service
from twisted.internet import reactor
from bridge.loop import Life, Starting, Stopping

life = Life(reactor)

class Whole(service.Service):
    def startService(self):
        life.bind()
    def stopService(self):
        return life.stop_with_reactor()

async def up():
    {up}

async def down():
    open("down", "w").close()

life.on_start(Starting.SERVICES, "up", up)
life.on_stop(Stopping.SERVICES, "down", down)
{early}
application = service.Application("whole")
Whole().setServiceParent(application)
"""


def _twistd(folder: Path, up: str, *options: str, early: str = "") -> list[str]:
    (folder / "whole.tac").write_text(TAC.replace("{up}", up).replace("{early}", early))
    return [
        sys.executable,
        "-c",
        "from twisted.scripts.twistd import run; run()",
        "--reactor=bgserver",
        *options,
        "-y",
        "whole.tac",
    ]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'twistd_plugin'}"}


def _until(condition, seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_sigterm_under_twistd_is_a_success(tmp_path):
    """
    SIGTERM ends `twistd -n` with status 0, after the services stopped; stock Twisted's is 143.
    """
    process = subprocess.Popen(_twistd(tmp_path, "open('up', 'w').close()", "-n"), cwd=tmp_path, env=_environment())
    assert _until((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)

    assert 0 == process.wait(15)
    assert (tmp_path / "down").exists()
    assert not (tmp_path / "twistd.pid").exists()


def test_a_failed_start_under_twistd_is_a_failure(tmp_path):
    """
    A start that fails after the reactor runs ends twistd with status 1, though twistd swallows SystemExit; the pid file
    goes, and the log says why.
    """
    done = subprocess.run(
        _twistd(tmp_path, "raise OSError('address in use')", "-n"),
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert 1 == done.returncode
    assert "Start-up failed in services, at up: address in use" in done.stdout
    assert (tmp_path / "down").exists()
    assert not (tmp_path / "twistd.pid").exists()


def test_daemonized_twistd_works(tmp_path):
    """
    Forked into the background after the reactor was made, the server starts, serves and stops. Threads that were asked
    for before the fork run after it.
    """
    done = subprocess.run(
        _twistd(
            tmp_path,
            "from twisted.internet.threads import deferToThread as d; "
            "from bridge.loop import as_awaitable as a; await a(d(lambda: open('up', 'w').close()))",
            early="reactor.callInThread(lambda: open('early', 'w').close())",
        ),
        cwd=tmp_path,
        env=_environment(),
        timeout=30,
    )
    assert 0 == done.returncode
    assert _until((tmp_path / "up").exists), (tmp_path / "twistd.log").read_text()
    pid = int((tmp_path / "twistd.pid").read_text())
    os.kill(pid, signal.SIGTERM)

    assert _until(lambda: not (tmp_path / "twistd.pid").exists())
    assert (tmp_path / "down").exists()
    assert (tmp_path / "early").exists()


def test_a_hung_handler_holds_no_exit(tmp_path):
    """
    A synchronous handler that never returns is named, and twistd exits with 0 all the same. (Without the immediate
    exit, Python joins anyio's thread for ever.)
    """
    up = (
        "import anyio.to_thread, threading; life.spawn(anyio.to_thread.run_sync(threading.Event().wait), 'hung'); "
        "open('up', 'w').close()"
    )
    process = subprocess.Popen(
        _twistd(tmp_path, up, "-n"), cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, text=True
    )
    assert _until((tmp_path / "up").exists)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=15)

    assert 0 == process.returncode
    assert "Left behind, because it doesn't end: thread AnyIO worker thread" in out


# -- systemd -----------------------------------------------------------------------------------


def test_systemd_is_told(tmp_path):
    """
    READY=1 once everything is up, WATCHDOG=1 twice in its time, STOPPING=1 when the stop begins.
    """
    ran = run(
        """
        import asyncio, os, socket, sys, time
        line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        line.bind(sys.argv[1])
        line.setblocking(False)
        os.environ |= {"NOTIFY_SOCKET": sys.argv[1], "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
        from bridge.loop import Life, install
        async def main():
            life = Life(install())
            async with life.attached():
                began = time.monotonic()
                await asyncio.sleep(0.12)
            return time.monotonic() - began
        took = asyncio.run(main())
        told = []
        while True:
            try:
                told.append(line.recv(100).decode())
            except BlockingIOError:
                break
        assert told[0] == "READY=1" and told[-1] == "STOPPING=1", told
        assert 2 <= told.count("WATCHDOG=1") <= 2 + took / 0.05 and len(set(told)) == 3, told
        """,
        str(tmp_path / "notify"),
    )

    assert ran.passed, ran.err
