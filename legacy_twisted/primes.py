"""
Work for a process pool.  Imports next to nothing: the children start
quickly.
"""

import signal


def ignoreInterrupts():
    """
    A Ctrl-C goes to all processes of a terminal; ending is the parent's
    business.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
