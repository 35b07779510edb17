"""
SIGTERM at random moments, under load, in both modes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.loop.snippets import ROOT

LONG = os.environ.get("BGSERVER_LONG") == "1"
GRACE = 2.0

SERVER = """
import asyncio, json, os, sys, threading
kind, mode = sys.argv[1:3]
import bridge.loop
from bridge.loop import Life, Starting, Stopping, as_awaitable, as_deferred

order, taken, active = [], [], set()

def served(life, reactor):
    from twisted.internet import defer, protocol, task, threads, utils
    from twisted.protocols import basic
    state, open_ones = {}, set()

    class One(basic.LineOnlyReceiver):
        delimiter = b"\\n"
        def connectionMade(self):
            open_ones.add(self)
        def connectionLost(self, reason):
            open_ones.discard(self)
        def lineReceived(self, line):
            taken.append(int(line))
            active.add(int(line))
            as_deferred(self.answer(int(line)))
        async def answer(self, me):
            if me % 3 == 0:
                await as_awaitable(threads.deferToThread(lambda: None))
            elif me % 3 == 1:
                await as_awaitable(task.deferLater(reactor, 0.01 * (me % 5)))
            else:
                await asyncio.sleep(0.01 * (me % 5))
            if me % 50 == 0:
                await as_awaitable(utils.getProcessOutput("/bin/true"))
            self.sendLine(b"%d" % me)
            self.transport.loseConnection()
            active.discard(me)

    async def accept():
        state["port"] = reactor.listenTCP(0, protocol.Factory.forProtocol(One), interface="127.0.0.1")
        print(state["port"].getHost().port, flush=True)
    async def stop_accepting():
        order.append("accept")
        await as_awaitable(defer.maybeDeferred(state["port"].stopListening))
    async def drain():
        order.append("drain")
        # What was accepted just now, and not read yet, comes in.
        await asyncio.sleep(0.05)
        while active:
            await asyncio.sleep(0.01)
    async def hang_up():
        # Connections on which nothing was asked. They are ours to close, whoever owns the loop.
        while open_ones:
            for one in list(open_ones):
                one.transport.loseConnection()
            await asyncio.sleep(0.01)
    async def note(name):
        order.append(name)
    life.on_start(Starting.ACCEPT, "listener", accept)
    life.on_stop(Stopping.ACCEPT, "listener", stop_accepting)
    life.on_stop(Stopping.DRAIN, "requests", drain)
    life.on_stop(Stopping.TASKS, "connections", hang_up)
    life.on_stop(Stopping.LIFESPAN, "lifespan", lambda: note("lifespan"))
    life.on_stop(Stopping.SERVICES, "services", lambda: note("services"))

def show():
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    try:
        children = os.waitpid(-1, os.WNOHANG)[0]
        children = 1
    except ChildProcessError:
        children = 0
    print(json.dumps({"taken": taken, "order": order, "threads": threads, "children": children,
                      "descriptors": [d for d in descriptors() if d not in before]}), flush=True)

def descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except FileNotFoundError:
            pass  # the folder's own
    return found

if mode == "owned":
    before = descriptors()
    reactor = bridge.loop.install(kind)
    life = Life(reactor, grace=float(sys.argv[3]))
    served(life, reactor)
    life.bind()
    reactor.run()
    show()
    sys.exit(reactor.exit_status)
else:
    import uvicorn
    async def app(scope, receive, send):
        global before
        before = descriptors()
        await receive()
        reactor = bridge.loop.install()
        life = Life(reactor, grace=float(sys.argv[3]))
        served(life, reactor)
        async with life.attached():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        show()
        await send({"type": "lifespan.shutdown.complete"})
    uvicorn.run(app, port=0, loop=kind, log_level="error")
"""


async def _load(port: int, answered: set[int], stop: asyncio.Event) -> None:
    numbers = iter(range(10**6))

    async def client() -> None:
        for number in numbers:
            if stop.is_set():
                return
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            try:
                writer.write(b"%d\n" % number)
                line = await reader.readline()
                if line:
                    answered.add(int(line))
            except OSError:
                pass
            finally:
                writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(client())


async def _struck(kind: str, mode: str, after: float) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVER,
        kind,
        mode,
        str(GRACE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    port = int(await process.stdout.readline())
    answered: set[int] = set()
    stop = asyncio.Event()
    load = asyncio.create_task(_load(port, answered, stop))
    await asyncio.sleep(after)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    took = time.monotonic() - began
    stop.set()
    await load

    assert out, err.decode()
    seen = json.loads(out)
    assert set(seen["taken"]) <= answered, "an accepted request was lost"
    assert ["accept", "drain", "lifespan", "services"] == seen["order"]
    assert [] == seen["threads"]
    assert 0 == seen["children"]
    # libuv keeps one pipe of its own for the life of a process that ever had a loop.
    assert len(set(seen["descriptors"])) <= (1 if (kind, mode) == ("uvloop", "owned") else 0), seen["descriptors"]
    # The figure belongs to the full count: a busy machine may be slow to end a process.
    assert took < (GRACE + 1 if LONG else 20)
    assert (0 if mode == "owned" else -signal.SIGTERM) == process.returncode


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("mode", ["owned", "attached"])
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_sigterm_under_load_loses_nothing(kind, mode):
    """
    At whatever moment SIGTERM comes, each accepted request is answered, the exit is within the grace + 1 s and in
    order, and no thread, child or descriptor is left.
    """
    dice = random.Random(20)
    for _ in range(int(os.environ.get("BGSERVER_STRIKES", "100" if LONG else "2"))):
        asyncio.run(_struck(kind, mode, dice.uniform(0.0, 0.8)))
