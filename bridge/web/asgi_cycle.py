"""
Owns one request of the ASGI road: the C{receive} and C{send} that its application gets,
and how its answer is framed.

It stands where uvicorn's own cycle stands, and its answers are the same to the byte. What
it does differently: a head goes out together with the first of its body where that follows
at once, which is one packet instead of two; and a request that nobody waits for has no
event.

Refuses: to parse, to make scopes, and to know of connections; whoever makes it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

# Modules, and no names: a release that isn't known (L{bridge.web.cycle}) may lack some of them, and must be stepped
# aside for, not failed at.
from uvicorn.protocols import utils
from uvicorn.protocols.http import flow_control, httptools_impl

from bridge.web.asgi_head import CODING, LENGTH, Headers, Preface, field, line

App = Callable[..., Any]

# Above this, joining costs more than a second write.
_JOIN = 16384
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_INTERNAL = b"Internal Server Error"
_INTERNAL_HEADERS = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_INTERNAL)),
    (b"connection", b"close"),
)


class Heads:
    """
    The heads whose body hasn't followed yet; what is still there at the loop's next turn goes out then. All
    connections share one, since each turn that is asked for costs as much as a header's check.
    """

    __slots__ = ("_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: list[AsgiCycle] = []

    def hold(self, cycle: AsgiCycle) -> None:
        """
        This one's began.
        """
        if not self._waiting:
            self.loop.call_soon(self._flush)
        self._waiting.append(cycle)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for cycle in waiting:
            cycle.flush()


class AsgiCycle:
    """
    One request and its answer.

    Everything here runs on the loop's thread.

    @ivar more_body: Whether the request isn't complete yet.
    @ivar keep_alive: Whether the connection goes on after the answer.
    @ivar disconnected: Whether the client has gone.
    @ivar task: What runs it; it takes itself out of the server's tasks, which costs less than to be told of its end.
    """

    __slots__ = (
        "_access_log",
        "_body",
        "_chunked",
        "_event",
        "_expected",
        "_flow",
        "_heads",
        "_held",
        "_log",
        "_on_response",
        "_preface",
        "_signalled",
        "_tasks",
        "_transport",
        "_waiting_for_continue",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "task",
    )

    def __init__(
        self,
        scope: Any,
        heads: Heads,
        tasks: set[asyncio.Task[None]],
        transport: asyncio.Transport,
        flow: flow_control.FlowControl,
        log: logging.Logger,
        access_log: logging.Logger | None,
        preface: Preface,
        expects_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], object],
    ) -> None:
        """
        @param access_log: Gets a line for each answer; None where that is somebody else's.
        @param on_response: Called when the answer is complete.
        """
        self.scope = scope
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None
        self._heads = heads
        self._tasks = tasks
        self._transport = transport
        self._flow = flow
        self._log = log
        self._access_log = access_log
        self._preface = preface
        self._waiting_for_continue = expects_continue
        self._on_response: Callable[[], object] | None = on_response
        self._body: bytearray | None = None
        self._signalled = False
        self._event: asyncio.Event | None = None
        self._held: list[bytes] | None = None
        self._chunked: bool | None = None
        self._expected = 0

    # the connection's side

    @property
    def message_event(self) -> AsgiCycle:
        """
        Itself: where uvicorn sets its cycle's event, this one hears of it.
        """
        return self

    def set(self) -> None:
        """
        There is something to receive.
        """
        self._signalled = True
        if self._event is not None:
            self._event.set()

    def heard(self, data: bytes) -> None:
        """
        Some of the request's body came, without its transfer coding.
        """
        if self.response_complete:
            return
        if self._body is None:
            self._body = bytearray(data)
        else:
            self._body += data
        if len(self._body) > flow_control.HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self.set()

    def heard_all(self) -> None:
        """
        The request is complete.
        """
        if not self.response_complete:
            self.more_body = False
            self._signalled = True
            if self._event is not None:
                self._event.set()

    async def run_asgi(self, app: App) -> None:
        """
        Have the application answer. What it raises, or leaves out, is logged, and ends the
        connection, or is a 500 where nothing had been said yet.
        """
        try:
            result = await app(self.scope, self.receive, self.send)
        except BaseException as error:
            self._log.error("Exception in ASGI application\n", exc_info=error)
            await self._fail()
        else:
            if result is not None:
                self._log.error("ASGI callable should return None, but returned '%s'.", result)
                self._cut()
            elif not (self.response_complete or self.disconnected):
                what = "completing" if self.response_started else "starting"
                self._log.error("ASGI callable returned without %s response.", what)
                await self._fail()
        finally:
            self._on_response = None
            if self.task is not None:
                self._tasks.discard(self.task)
                self.task = None

    async def _fail(self) -> None:
        if self.response_started:
            self._cut()
            return
        await self.send({"type": "http.response.start", "status": 500, "headers": _INTERNAL_HEADERS})
        await self.send({"type": "http.response.body", "body": _INTERNAL})

    def _cut(self) -> None:
        self.flush()
        self._transport.close()

    # the application's side

    async def receive(self) -> dict[str, Any]:
        """
        What is there of the request, or that the client doesn't wait any more.
        """
        if self._waiting_for_continue and not self._transport.is_closing():
            self._transport.write(_CONTINUE)
            self._waiting_for_continue = False
        if not (self.disconnected or self.response_complete):
            self._flow.resume_reading()
            if not self._signalled:
                if self._event is None:
                    self._event = asyncio.Event()
                await self._event.wait()
            self._signalled = False
            if self._event is not None:
                self._event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": bytes(body) if body else b"", "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """
        Write a part of the answer; waits while the client doesn't read.

        @raise RuntimeError: If it isn't what comes next, or not what the headers said.
        """
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._start(message["status"], message.get("headers", ()))
        elif self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        else:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            self._write(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: Headers) -> None:
        self.response_started = True
        self._waiting_for_continue = False
        if self._access_log is not None:
            self._access_log.info(
                '%s - "%s %s HTTP/%s" %d',
                utils.get_client_addr(self.scope),
                self.scope["method"],
                utils.get_path_with_query_string(self.scope),
                self.scope["http_version"],
                status,
            )
        preface = self._preface
        parts = [httptools_impl.STATUS_LINE[status], preface.lines]
        unfit = httptools_impl.HEADER_VALUE_RE.search
        closes = False
        for name, value in (*preface.framing, *headers) if preface.framing else headers:
            if name == b"content-type":
                parts.append(line(name, value))
                continue
            if name == b"content-length" and self._chunked is None and value.isdigit():
                parts.append(line(name, value))
                self._expected = int(value)
                self._chunked = False
                continue
            written, framing = field(name)
            if unfit(value):
                raise RuntimeError("Invalid HTTP header value.")
            if framing is not None:
                closes = self._framed(framing, value) or closes
            parts += (written, value, b"\r\n")
        if not (self.keep_alive or closes):
            parts.append(b"connection: close\r\n")
        if self._chunked is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        # Nearly always the body follows at once: one write instead of two.
        self._held = parts
        self._heads.hold(self)

    def _framed(self, framing: bytes, value: bytes) -> bool:
        """
        One of those headers says how the answer is framed.

        @return: Whether it says that the connection ends with it.
        """
        if framing == LENGTH:
            if self._chunked is None:
                self._expected = int(value.decode())
                self._chunked = False
        elif framing == CODING:
            if value.lower() == b"chunked":
                self._expected = 0
                self._chunked = True
        elif b"close" in [token.strip() for token in value.lower().split(b",")]:
            self.keep_alive = False
            return True
        return False

    def _write(self, body: bytes, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            self._expected = 0
        elif self._chunked:
            parts = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            if not more_body:
                parts.append(b"0\r\n\r\n")
            if parts:
                self._put(parts, len(body))
        else:
            size = len(body)
            if size > self._expected:
                raise RuntimeError("Response content longer than Content-Length")
            self._expected -= size
            held = self._held
            if held is not None and size <= _JOIN:
                self._held = None
                held.append(body)
                self._transport.write(b"".join(held))
            elif body:
                self._put([body], size)
        if more_body:
            return
        if self._held is not None:
            self.flush()
        if self._expected != 0:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self._signalled = True
        if self._event is not None:
            self._event.set()
        if not self.keep_alive:
            self._transport.close()
        if self._on_response is not None:
            self._on_response()

    def _put(self, parts: list[bytes], size: int) -> None:
        held = self._held
        if held is None:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        elif size <= _JOIN:
            held += parts
            self.flush()
        else:
            self.flush()
            self._put(parts, size)

    def flush(self) -> None:
        """
        Write the head that waits for its body, if one does.
        """
        held, self._held = self._held, None
        if held is not None and not self.disconnected:
            self._transport.write(b"".join(held))
