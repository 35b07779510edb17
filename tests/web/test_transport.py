"""
What a Twisted application may rely on at the face of an asyncio transport.
"""

from __future__ import annotations

import asyncio
import socket

from bridge.web.transport import LoopTransport


class Told(asyncio.Protocol):
    """
    Notes whether it was told to wait.
    """

    paused = False

    def pause_writing(self) -> None:
        self.paused = True


def test_sequence_keeps_back_pressure() -> None:
    """
    Who writes a sequence that the peer doesn't read is told to wait. Seen to fail on Python 3.13.0 with
    C{transport.writelines}, which buffers without a word.
    """

    async def write() -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, protocol = await asyncio.get_running_loop().create_connection(Told, sock=ours)
            LoopTransport(transport).writeSequence([b"x" * (1 << 20)] * 8)
            transport.abort()
            return protocol.paused

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(write())
