"""
Owns the good-bye of websockets that uvicorn serves: 1001, which says that the server
is going away, where uvicorn says 1012.

Websockets of the legacy application, on connections that it took over, hear the same
where they are C{twisted.web.websocket}'s or Autobahn's, which isn't imported for it;
whatever else it speaks there is cut, as it is when a native server ends.

Refuses: everything else; that is uvicorn's.
"""

from __future__ import annotations

from typing import Any

import wsproto.events
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

GOING_AWAY = 1001
# WebSocketProtocol.STATE_OPEN: nobody can be told anything before the handshake, or twice.
_AUTOBAHN_OPEN = 3


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


def say_goodbye(owner: Any, face: Any) -> None:
    """
    End a connection that the legacy application took over.

    @param owner: Who receives its data: a protocol, or a channel whose method was replaced.
    @param face: The connection's transport.
    """
    receiver = getattr(vars(owner).get("dataReceived"), "__self__", owner)
    if hasattr(receiver, "_wsconn"):
        receiver.loseConnection(GOING_AWAY)
    elif getattr(receiver, "state", None) == _AUTOBAHN_OPEN and hasattr(receiver, "sendCloseFrame"):
        # sendClose, for applications, refuses the codes that are the server's to use. Who
        # doesn't answer is cut by Autobahn's own timeout.
        receiver.sendCloseFrame(GOING_AWAY)
    else:
        face.loseConnection()
