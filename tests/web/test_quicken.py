"""
What is replaced of twisted.web while a front runs gives the same answers, and gives way.

Every application below answers the same requests on Twisted's own channel, with and without the replacements.
Seen to fail: without the look at line ends in `set_header`, at `_encoder` or at the method in `write`, and with
`functools.wraps` in the place of what text_of reads.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import GzipEncoderFactory, Request, Site

from bridge.web.quick_request import READ, TEXTS, quick_methods, text_of
from bridge.web.quicken import Quickened

GET = b"GET /a%20b/c?q=1 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
REQUESTS = (
    GET,
    GET.replace(b"GET", b"HEAD"),
    GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
    GET.replace(b"Host", b"Connection: close\r\nHost"),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
)
Answers = Callable[[Any], bytes]


def headers(*pairs: tuple[Any, Any]) -> Answers:
    def answer(request: Any) -> bytes:
        for name, value in pairs:
            request.setHeader(name, value)
        return b"body"

    return answer


def attribute(name: str, value: Any) -> Answers:
    def answer(request: Any) -> bytes:
        setattr(request, name, value)
        return b"body"

    return answer


def code(number: int, body: bytes = b"body") -> Answers:
    def answer(request: Any) -> bytes:
        request.setResponseCode(number)
        return body

    return answer


def raising(call: Callable[[Any], object]) -> Answers:
    """
    What an application does wrong, and what it is told.
    """

    def answer(request: Any) -> bytes:
        try:
            call(request)
        except Exception as error:
            return repr(error).encode()
        return b"nothing"

    return answer


def chunks(request: Any) -> int:
    for data in (b"one", b"", b"three"):
        request.write(data)
    request.finish()
    return server.NOT_DONE_YET


def after_the_end(request: Any) -> int:
    chunks(request)
    with suppress(RuntimeError):
        request.write(b"more")
    return server.NOT_DONE_YET


def ended_at_once(request: Any) -> int:
    request.finished = 1
    with suppress(RuntimeError):
        request.write(b"too late")
    return server.NOT_DONE_YET


def left(request: Any) -> int:
    request.connectionLost(Failure(ConnectionDone()))
    request.write(b"to nobody")
    return server.NOT_DONE_YET


def cookies(request: Any) -> bytes:
    request.addCookie("name", "value", secure=True)
    request.addCookie(b"other", b"value")
    return b"body"


def own_headers(request: Any) -> bytes:
    class Shouting(Headers):
        def setRawHeaders(self, name: Any, values: Any) -> None:
            super().setRawHeaders(name, [value.upper() for value in values])

    request.responseHeaders = Shouting({b"x-name": [b"value"]})
    request.setHeader(b"x-other", b"value")
    return b"body"


def emptied(request: Any) -> bytes:
    request.responseHeaders.setRawHeaders(b"Content-Type", [])
    return b"body"


def told(request: Any) -> bytes:
    names = ("prepath", "postpath", "args", "clientproto", "queued", "cookies", "received_cookies", "notifications")
    facts = {name: getattr(request, name) for name in names}
    return repr((facts, sorted(vars(request)), request.content.read())).encode()


APPLICATIONS: dict[str, Callable[[Any], Any]] = {
    "plain": headers(),
    "told": told,
    "names": headers((b"x-lower", b"1"), ("Text", "h\xe4"), (b"content-type", b"a/b"), (b"etag", b'"1"')),
    "line ends": headers((b"x", b"a\r\nb: c"), (b"y", b"a\n"), (b"z", b"a\rb"), (b"Content-Type", b"a\nb")),
    "no bytes": headers((b"x", bytearray(b"a\nb")), (b"y", b"")),
    "a number": raising(lambda request: request.setHeader(b"x", 5)),
    "a bad name": raising(lambda request: request.setHeader(b"x y", b"1")),
    "cookies": cookies,
    "chunks": chunks,
    "own headers": own_headers,
    "emptied": emptied,
    "no type": attribute("defaultContentType", None),
    "other type": attribute("defaultContentType", b"text/plain"),
    "reason": attribute("code_message", b"Very well"),
    "length zero": headers((b"Content-Length", b"0")),
    "no content": code(204),
    "not modified": code(304),
    "empty": code(404, b""),
    "unknown": code(799),
    "type of lines": attribute("defaultContentType", b"a/b\nc"),
    "modified": attribute("lastModified", 1),
    "tagged": attribute("etag", b'"1"'),
    "after the end": after_the_end,
    "ended at once": ended_at_once,
    "left": left,
}


class Answering(Resource):
    isLeaf = True

    def __init__(self, application: Callable[[Any], Any]) -> None:
        super().__init__()
        self.application = application

    def render_GET(self, request: Request) -> Any:
        return self.application(request)

    render_POST = render_GET


class Own(Request):
    """
    A Request as people write them.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        Request.__init__(self, *args, **options)
        self.seen: list[Any] = []

    def setHeader(self, name: Any, value: Any) -> None:
        self.seen.append(name)
        Request.setHeader(self, name, value)

    def write(self, data: Any) -> None:
        if not self.startedWriting:
            Request.setHeader(self, b"X-Seen", repr(self.seen).encode())
        Request.write(self, data)


class Faked(Answering):
    """
    One that knows no HEAD: Twisted asks for the GET.
    """

    render_HEAD = None  # type: ignore[assignment]


def heard(site: Any, requests: Sequence[bytes] = REQUESTS) -> list[bytes]:
    """
    What a client hears from it, on Twisted's own channel.
    """
    answers = []
    for data in requests:
        channel = site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        ended = ""
        try:
            channel.dataReceived(data)
        except RuntimeError as error:
            ended = repr(error)
        answers.append(re.sub(rb"Date: [^\r]*", b"Date: now", transport.value()) + ended.encode())
    return answers


@pytest.fixture
def quickened() -> Iterator[Quickened]:
    made = Quickened()
    yield made
    made.end()


@pytest.mark.parametrize(("resource", "factory"), [(Answering, Request), (Faked, Request), (Answering, Own)])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_same_answers(name: str, resource: Any, factory: Any, quickened: Quickened) -> None:
    """
    Whatever the application does, and whether its Request is Twisted's or a subclass.
    """

    def site() -> Site:
        return Site(resource(APPLICATIONS[name]), requestFactory=factory, reactor=Clock())

    stock = heard(site())

    quickened.begin()

    assert stock == heard(site())


def test_encoders_and_content_files(quickened: Quickened) -> None:
    """
    An encoder in front of a resource, and a Site that chooses where a body goes.
    """
    from io import BytesIO

    def site() -> Site:
        made = Site(
            EncodingResourceWrapper(Answering(lambda request: request.content.read() + b"!"), [GzipEncoderFactory()]),
            reactor=Clock(),
        )

        def getContentFile(length: Any) -> Any:
            asked.append(length)
            return BytesIO()

        made.getContentFile = getContentFile  # type: ignore[attr-defined]
        return made

    asked: list[Any] = []
    stock = heard(site())
    before, asked = asked, []

    quickened.begin()

    assert stock == heard(site())
    assert before == asked == [0, 0, 0, 0, 3]


def test_the_installed_release_is_known(quickened: Quickened) -> None:
    """
    The methods of this Twisted are those that were read. If this fails after an upgrade, read them again.
    """
    assert text_of() in TEXTS
    quickened.begin()
    assert "quick_request" in Request.write.__code__.co_filename


@pytest.mark.parametrize(("owner", "name"), READ, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_replaced_before_is_left(
    owner: Any, name: str, quickened: Quickened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An application that put its own in one of these places, as tracers do, keeps all of them.
    """
    stock = vars(owner)[name]
    monkeypatch.setattr(owner, name, functools.wraps(stock)(lambda *args, **options: stock(*args, **options)))

    assert [] == quick_methods()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (http.Request, "__init__"),
        (http.Request, "setHeader"),
        (http.Request, "write"),
        (Request, "write"),
        (Headers, "setRawHeaders"),
        (Headers, "getRawHeaders"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_replaced_since_is_called(owner: Any, name: str, quickened: Quickened) -> None:
    """
    So does one that does it while the server runs, and its own is there when that ends.
    """
    stock = vars(owner)[name]
    calls: list[Any] = []

    def counting() -> Any:
        found = vars(owner)[name]

        def counted(self: Any, *args: Any, **options: Any) -> Any:
            calls.append(args)
            return found(self, *args, **options)

        setattr(owner, name, counted)
        answers = heard(Site(Answering(headers((b"x-name", b"value"))), reactor=Clock()), [GET])
        assert b"X-Name: value\r\n" in answers[0]
        return counted

    try:
        counting()
        setattr(owner, name, stock)
        before, calls = len(calls), []
        quickened.begin()
        counted = counting()
        quickened.end()
        assert before == len(calls)
        assert counted is vars(owner)[name]
    finally:
        setattr(owner, name, stock)


def test_a_date_of_the_applications_own(quickened: Quickened, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Who has put another clock there keeps it.
    """
    monkeypatch.setattr(server, "datetimeToString", lambda: b"always")
    quickened.begin()

    assert "always" == server.datetimeToString().decode()


def test_a_parser_of_the_applications_own(quickened: Quickened, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Who has put another parser of a form's type there has it called for each form, and none of its answers is kept.

    Seen to fail where whatever stood there was remembered by what it had answered.
    """

    def own(line: bytes) -> object:
        raise AssertionError("nobody asks")

    monkeypatch.setattr(http, "_parseContentType", own)
    quickened.begin()

    assert own is http._parseContentType


def test_all_is_put_back(quickened: Quickened) -> None:
    """
    Twisted is as it was when the last front ends.
    """
    places = [(http.Request, "setHeader"), (Request, "__init__"), (Request, "gotLength"), (Request, "write")]
    before = [vars(owner)[name] for owner, name in places]
    unquote = server.unquote

    quickened.begin()
    assert all(vars(owner)[name] is not stock for (owner, name), stock in zip(places, before, strict=True))
    quickened.end()

    assert before == [vars(owner)[name] for owner, name in places]
    assert unquote is server.unquote
