"""
Work for a process pool.  Imports next to nothing: the children start
quickly.
"""

import multiprocessing
import os
import signal
import threading


def beginChild():
    """
    A Ctrl-C goes to all processes of a terminal; ending is the parent's
    business.  A parent that was killed ends its children too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_endWithParent, daemon=True).start()


def _endWithParent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def countPrimes(n):
    """
    @return: how many primes there are up to C{n}, by the sieve of
        Eratosthenes, in C{n} bytes of memory.
    """
    if n < 2:
        return 0
    sieve = bytearray([1]) * (n + 1)
    sieve[0:2] = b"\0\0"
    for number in range(2, int(n**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, n + 1, number)))
    return sum(sieve)
