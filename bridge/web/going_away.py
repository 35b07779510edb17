"""
Owns the good-bye of websockets that uvicorn serves: 1001, which says that the server
is going away, where uvicorn says 1012.

Refuses: everything else; that is uvicorn's.
"""

from __future__ import annotations

import wsproto.events
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

GOING_AWAY = 1001


class GoingAwayProtocol(WSProtocol):
    """
    uvicorn's websocket protocol on wsproto, which accepts only when the application does.
    """

    def shutdown(self) -> None:
        """
        Called when the server stops: tell the peer and the application.
        """
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        goodbye = wsproto.events.CloseConnection(code=GOING_AWAY)
        self.transport.write(self.conn.send(goodbye))
        self.close_sent = True
        self.transport.close()
