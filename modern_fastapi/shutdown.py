"""
Hears that the server is about to stop, which ASGI tells only when the last request has ended: too late for streams
that end only when they are told.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def drain_on_signals(draining: asyncio.Event) -> Iterator[None]:
    """
    Sets ``draining`` at a signal that uvicorn has taken, before uvicorn hears it. Under any other server the signals
    are not ours: it sets ``draining`` itself, or the lifespan does at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if _is_uvicorns(handler)]

    def hear(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(draining.set)
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number in ours:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is hear:
                signal.signal(number, before[number])


def _is_uvicorns(handler: object) -> bool:
    server = getattr(handler, "__self__", None)
    return type(server).__module__.partition(".")[0] == "uvicorn"
