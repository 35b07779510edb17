"""
An open-loop client for benchmarks: requests go out when they are due, whether or not the last one was answered, and
each latency counts from when its request was due.

It has no event loop: a timer of that is a millisecond wide, which is more than most of what is measured here. It wants
a processor for itself, and `apart` gives the server the other one.
"""

from __future__ import annotations

import collections
import os
import random
import select
import socket
import time
from collections.abc import Iterator, Sequence

import attrs

# Seconds before a request is due, in which nothing else is waited for.
_EARLY = 30e-6


def apart(server: int) -> None:
    """
    Put this process and a server's, given by its id, on processors of their own, where there are two.
    """
    free = sorted(os.sched_getaffinity(0))
    if len(free) > 1:
        os.sched_setaffinity(0, {free[-1]})
        # A process's threads are moved one by one.
        for thread in os.listdir(f"/proc/{server}/task"):
            os.sched_setaffinity(int(thread), set(free[:-1]))


def steady(rate: float, seconds: float) -> Iterator[float]:
    """
    When requests are due, evenly: seconds from the beginning.
    """
    return (n / rate for n in range(int(rate * seconds)))


def by_chance(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """
    When requests are due, as many clients that know nothing of each other send them.
    """
    dice, at = random.Random(seed), 0.0
    while (at := at + dice.expovariate(rate)) < seconds:
        yield at


@attrs.define(eq=False)
class OpenLoop:
    """
    Connections that are kept for one run, each with one request on its way at most.

    @ivar request: The same each time; its answers must be of one length.
    """

    port: int
    request: bytes
    connections: int = 64
    _sockets: list[socket.socket] = attrs.field(factory=list)
    _length: int = 0

    def _open(self) -> None:
        """
        Connect, and learn how long an answer is.
        """
        for _ in range(self.connections):
            made = socket.create_connection(("127.0.0.1", self.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.sendall(self.request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += made.recv(65536)
            head = answer.partition(b"\r\n\r\n")[0]
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            self._length = len(head) + 4 + length
            while len(answer) < self._length:
                answer += made.recv(65536)
            made.setblocking(False)
            self._sockets.append(made)

    def _close(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def run(self, due: Iterator[float]) -> list[float]:
        """
        Send each request when it is due, and wait for all answers: their latencies in seconds, sorted.
        """
        self._open()
        try:
            return sorted(self._run(due))
        finally:
            self._close()

    def _run(self, due: Iterator[float]) -> list[float]:
        clock, poll, request, length = time.perf_counter, select.epoll(), self.request, self._length
        by_descriptor = {each.fileno(): each for each in self._sockets}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        idle = collections.deque(by_descriptor)
        sent: dict[int, float] = {}
        missing = dict.fromkeys(by_descriptor, length)
        latencies: list[float] = []
        began = clock()
        at = next(due, None)
        while at is not None or sent:
            while at is not None and idle and began + at <= clock():
                descriptor = idle.popleft()
                by_descriptor[descriptor].send(request)
                sent[descriptor] = began + at
                at = next(due, None)
            wait = 0.1 if at is None or not idle else began + at - clock() - _EARLY
            if wait > 0:
                # To the microsecond, which a wait of the poll's own isn't.
                select.select([poll], [], [], wait)
            for descriptor, _ in poll.poll(0):
                data = by_descriptor[descriptor].recv(65536)
                if not data:
                    raise ConnectionError("the server hung up")
                missing[descriptor] -= len(data)
                if missing[descriptor] <= 0:
                    latencies.append(clock() - sent.pop(descriptor))
                    missing[descriptor] = length
                    idle.append(descriptor)
        poll.close()
        return latencies

    def most(self, seconds: float) -> float:
        """
        How many requests a second are answered where there is always one to answer.
        """
        clock = time.perf_counter
        until = clock() + seconds

        def always() -> Iterator[float]:
            while clock() < until:
                yield 0.0

        return len(self.run(always())) / seconds


def quantile(latencies: Sequence[float], share: float) -> float:
    """
    Of sorted latencies that which so large a share of them doesn't pass.
    """
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))]
