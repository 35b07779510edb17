"""
One attempt at one task, and the crew that makes them.

Everything here happens on threads that may block; a crew's C{perform} never
fails, whatever a task's function does.
"""

import functools
import itertools
import json
import threading
import time

from twisted.logger import Logger

from legacy_twisted import functions, tasks
from legacy_twisted.loops import Fenced

BEAT = 1.0  # seconds between two heartbeats
IDLE = 5  # the share of them that are given while nothing runs: one in this many
LOOK = 0.2  # seconds between two looks at a running row


class Cancelled(Exception):
    """
    Somebody asked to cancel the task.
    """


class Interrupted(Exception):
    """
    The server stops: the task is given back.
    """


class Run:
    """
    One attempt at one task, as its function sees it.  Lives on one thread.
    """

    def __init__(self, crew, row):
        self.crew = crew
        self.jobs = crew.jobs
        self.row = row
        self.id = row["id"]
        self.params = json.loads(row["params"])
        self.again = row["attempts"] > 1
        self.writes = []
        self.interrupted = False
        self._stops = []
        self._began = self._looked = time.monotonic()

    def atEnd(self, write, **values):
        """
        Add C{write(connection, **values)} to the transaction that ends the
        task: it happens exactly once, with SUCCESS.
        """
        self.writes.append(functools.partial(write, **values))

    def interruptible(self, stop):
        """
        Have C{stop()} called, on another thread, when the task is to be given
        back: the step that runs has no checkpoint, and may wait for long.
        """
        self._stops.append(stop)
        if self.crew.abandoning.is_set():
            self.interrupt()

    def interrupt(self):
        for stop in self._stops:
            self.interrupted = True
            stop()

    def checkpoint(self, progress=0.0):
        """
        Called between two steps; where a task can be cancelled, given back
        or timed out.

        @param progress: 0 to 1.
        """
        if self.crew.abandoning.is_set():
            raise Interrupted()
        now = time.monotonic()
        timeout = self.row["timeout"]
        if timeout is not None and now - self._began > timeout:
            raise TimeoutError(f"ran longer than {timeout:g} seconds")
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self.crew.write(tasks.progress, self.row, progress):
            raise Cancelled()


class Crew:
    """
    Performs tasks, and shows that they are alive.

    @ivar abandoning: set when running tasks have had their time.
    @ivar ended: set when there is nothing left to show.
    """

    log = Logger()

    def __init__(self, jobs):
        self.jobs = jobs
        self.abandoning = threading.Event()
        self.ended = threading.Event()
        self._idle = threading.Condition()
        self._running = {}
        self._runs = set()

    def __len__(self):
        return len(self._running)

    def took(self, row):
        """
        A row was claimed: until C{perform} has ended it, its heart beats.
        """
        self._running[row["id"], row["attempts"]] = row

    def perform(self, row):
        """
        Run one task to its end, whatever that is.
        """
        run = Run(self, row)
        self._runs.add(run)
        try:
            ending = self._attempt(run)
            self._finish(row, ending)
        except (tasks.Lost, Fenced):
            self.log.error("Task {id} was taken by somebody else; its result is dropped", **row)
        except Exception:
            self.log.failure("Task {id} could not be ended; rescue will find it", **row)
        finally:
            self._runs.discard(run)
            with self._idle:
                del self._running[row["id"], row["attempts"]]
                self._idle.notify_all()
            self.performed(row)

    def _attempt(self, run):
        """
        @return: the write that ends the attempt.
        """
        try:
            result = functions.find(run.row["name"])(run)
        except Cancelled:
            return tasks.cancelled
        except Interrupted:
            return tasks.release
        except (tasks.Lost, Fenced):
            raise
        except BaseException as error:
            if run.interrupted:
                return tasks.release
            # SystemExit too: a task must not end its worker.
            self.log.failure("Task {id} ({name}) failed", **run.row)
            return functools.partial(tasks.fail, error=error)

        def succeed(connection, owner, row):
            tasks.succeed(connection, owner, row, result)
            for write in run.writes:
                write(connection)

        return succeed

    def _finish(self, row, ending):
        # The work is done: it would be a pity to do it again because the
        # database was away for a moment.
        for pause in (0.1, 0.5, 1.0, None):
            try:
                return self.write(ending, row)
            except (tasks.Lost, Fenced):
                raise
            except Exception:
                if pause is None:
                    raise
                time.sleep(pause)

    def performed(self, row):
        """
        Called after each task, on its thread.
        """

    def write(self, interaction, *args):
        """
        Run C{interaction(connection, boot, *args)} in one transaction.
        """
        return self.jobs.database.writeNow(interaction, self.jobs.boot, *args)

    def drain(self, grace):
        """
        Wait for what runs; after half of C{grace} seconds ask it to give up.
        """
        with self._idle:
            if not self._idle.wait_for(lambda: not self._running, grace / 2):
                self.abandon()
                self._idle.wait_for(lambda: not self._running, grace / 2)
        for row in list(self._running.values()):
            self.log.error("Task {id} is left behind; rescue will find it", id=row["id"])

    def abandon(self):
        self.abandoning.set()
        for run in list(self._runs):
            run.interrupt()

    def end(self):
        self.abandon()
        self.ended.set()

    def beat(self):
        """
        Once a second, until the end: show that the running tasks are alive;
        more rarely while there are none.
        """
        for second in itertools.count(1):
            if self.ended.wait(BEAT):
                break
            if not self._running and second % IDLE:
                continue
            try:
                self.jobs.database.writeNow(self.beatOnce, self.jobs.boot)
            except Fenced as error:
                self.refuse(error)
                break
            except Exception:
                self.log.failure("A heartbeat failed; trying again")
        self.jobs.database.forget()

    def beatOnce(self, connection, owner):
        tasks.beat(connection, owner, list(self._running))

    def refuse(self, error):
        """
        Called when a heartbeat was refused.
        """
