"""
Tasks that compute: the digest of an object, the primes up to a bound, and one that fails as often as it is told.
"""

import hashlib
import json
from math import isqrt
from typing import Any

from pydantic import BaseModel

from .context import TaskContext

SEGMENT = 1_000_000


class Data(BaseModel):
    """
    Any JSON object.
    """

    data: Any


class Bound(BaseModel):
    """
    How far to count.
    """

    n: int


class Failures(BaseModel):
    """
    How often to fail first.
    """

    failures: int


async def process_data(context: TaskContext, params: Data) -> dict[str, Any]:
    """
    The number of top-level keys, and the digest of the canonical text.
    """

    def digest() -> str:
        text = json.dumps(params.data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    return {"keys": len(params.data), "sha256": await context.in_thread(digest)}


async def call_unstable(context: TaskContext, params: Failures) -> dict[str, int]:
    """
    Raises until it has failed ``failures`` times.
    """
    if context.failures < params.failures:
        raise RuntimeError(f"unstable: failure {context.failures + 1} of {params.failures}")
    return {"attempts": context.attempts}


async def count_primes(context: TaskContext, params: Bound) -> dict[str, int]:
    """
    How many primes there are up to ``n``, a segment at a time in the process pool.
    """
    count = 0
    for start in range(0, params.n + 1, SEGMENT):
        end = min(start + SEGMENT, params.n + 1)
        count += await context.services.processes.run(primes_between, start, end)
        context.progress(end / (params.n + 1))
    return {"count": count}


def primes_between(start: int, end: int) -> int:
    """
    The number of primes in [start, end), by a segmented sieve. Runs in a child process.
    """
    start = max(start, 2)
    if end <= start:
        return 0
    root = isqrt(end - 1)
    small = bytearray([1]) * (root + 1)
    sieve = bytearray([1]) * (end - start)
    for divisor in range(2, root + 1):
        if not small[divisor]:
            continue
        small[divisor * divisor :: divisor] = bytes(len(range(divisor * divisor, root + 1, divisor)))
        first = max(divisor * divisor, (start + divisor - 1) // divisor * divisor)
        sieve[first - start :: divisor] = bytes(len(range(first, end, divisor)))
    return sum(sieve)
