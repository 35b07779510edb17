"""
Virtual hosts for one test each, made on the RabbitMQ of this host and deleted afterwards: a worker that a cut-off run
left behind, and what it never took, are in another.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def temporary_vhost() -> Iterator[str]:
    """
    The URL of a fresh virtual host. Skips the test where rabbitmqctl is missing or not allowed to.
    """
    program = shutil.which("rabbitmqctl") or pytest.skip("rabbitmqctl is not installed")
    host = f"test_{uuid.uuid4().hex[:12]}"

    def control(*words: str) -> None:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"rabbitmqctl {words[0]}: {done.stderr.strip()[:200]}")

    control("add_vhost", host)
    try:
        control("set_permissions", "-p", host, "guest", ".*", ".*", ".*")
        yield f"amqp://guest:guest@127.0.0.1:5672/{host}"
    finally:
        control("delete_vhost", host)
