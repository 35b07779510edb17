"""
Our row in the table of processes: by it others see at once that we died.
"""

import os
import socket

from twisted.application import service
from twisted.internet import defer, task
from twisted.logger import Logger

from legacy_twisted.tasks import timestamp

AGAIN = 5.0  # seconds until a row that couldn't be written is tried again


def startTime(pid):
    """
    When the kernel started a process, in its own ticks, as text; empty when
    there is no such process, or it has ended and its parent hasn't asked how.
    A pid alone may have been used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name, and may hold anything but ")".
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    if not fields or fields[0] in (b"Z", b"X"):
        return ""
    return fields[19].decode()


def isDead(row):
    """
    Whether a process of this host has ended.  What can't be known is taken
    for alive: its heartbeat tells, only later.
    """
    if row["host"] != socket.gethostname() or not row["start_time"]:
        return False
    return startTime(row["pid"]) != row["start_time"]


class Presence(service.Service):
    """
    The child C{presence} of the server's tree.
    """

    log = Logger()
    _arriving = None

    def __init__(self, jobs):
        self.jobs = jobs

    def startService(self):
        service.Service.startService(self)
        self._looping = task.LoopingCall(self.tick)
        self._looping.clock = self.jobs.reactor
        self._arriving = self._looping.start(AGAIN)

    def tick(self):
        """
        Until the row is there.  Never fails: a LoopingCall would end at the
        first error.
        """
        arriving = self.jobs.database.write(self.arrive)
        return arriving.addCallbacks(
            lambda _: self._looping.running and self._looping.stop(),
            lambda why: self.log.failure("No presence noted", why),
        )

    def arrive(self, connection):
        pid = os.getpid()
        connection.execute(
            "INSERT INTO processes (boot_id, host, pid, start_time, side, started_at)"
            " VALUES (:boot, :host, :pid, :start_time, 'legacy', :now) ON CONFLICT DO NOTHING",
            boot=self.jobs.boot,
            host=socket.gethostname(),
            pid=pid,
            start_time=startTime(pid),
            now=timestamp(),
        )

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        if self._looping.running:
            self._looping.stop()
        yield self._arriving
        yield self.jobs.database.write(self.leave)

    def leave(self, connection):
        # A row that a stuck thread has left behind is found by our death.
        connection.execute(
            "DELETE FROM processes WHERE boot_id = :boot AND NOT EXISTS"
            " (SELECT 1 FROM tasks WHERE owner = :boot AND status = 'RUNNING')",
            boot=self.jobs.boot,
        )
