"""
Child processes for work that would hold the interpreter: started when first needed, and replaced when one is killed.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 3
# How long children may take to end by themselves, in seconds.
ENDING = 5.0


class Processes:
    """
    A process pool that survives the death of its children. All methods run on the event loop.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Calls a module-level function in a child. A killed child breaks its whole pool, through no fault of most of
        those who wait: they try again in a new one, a few times, for the killer may be the work itself.

        A daemonic process, as each of Celery's prefork pool, may have no children, and needs none: it is the process
        that the work has for itself.
        """
        assert not kwargs
        if multiprocessing.current_process().daemon:
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        for attempt in range(TRIES):
            pool = self._pool
            if pool is None:
                # Not forked from this process: its threads and locks would be copied in whatever state they are.
                context = multiprocessing.get_context("spawn")
                pool = self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_begin_child)
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
            except BrokenProcessPool:
                if self._pool is pool:
                    self._pool = None
                    pool.shutdown(wait=False)
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """
        Ends the children; what they were at is given up.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            children = list((getattr(pool, "_processes", None) or {}).values())
            # Who has not waited at the first shutdown can't at a second: the pool has forgotten the thread by then.
            manager: threading.Thread | None = getattr(pool, "_executor_manager_thread", None)
            pool.shutdown(wait=False, cancel_futures=True)
            for end in (BaseProcess.terminate, BaseProcess.kill):
                for child in children:
                    end(child)
                if manager is not None and manager.is_alive():
                    # Not without end: whatever holds it would hold the stop.
                    await asyncio.get_running_loop().run_in_executor(None, manager.join, ENDING)
                if manager is None or not manager.is_alive():
                    return


def _begin_child() -> None:
    # Ctrl-C goes to the whole group: the parent decides when a child ends, and its death ends the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
