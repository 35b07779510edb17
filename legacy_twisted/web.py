"""
What all pages share: the Site, its requests, answers and errors.

A page is a C{Resource} with C{render_GET} and C{render_POST}, as ever.  It
may raise L{Refusal}, from anywhere and also in a Deferred, and the client
gets the error as JSON; anything else that goes wrong is a 500 with an id
that the log has too.
"""

import json
import uuid

from twisted.internet import defer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, resource, server

from legacy_twisted import tasks
from legacy_twisted.bodies import JsonBody, UploadBody, mediaType
from legacy_twisted.tasks import timestamp

JSON = b"application/json"


class Refusal(Exception):
    """
    An answer that isn't what the client hoped for.
    """

    def __init__(self, status, code, message, headers=()):
        Exception.__init__(self, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def notFound(what="page"):
    return Refusal(http.NOT_FOUND, "not_found", "no such " + what)


class Request(server.Request):
    """
    A request whose body is read, counted and limited while it arrives.
    """

    log = Logger()
    defaultContentType = None
    gone = False

    def gotLength(self, length):
        site = self.channel.site
        if mediaType(self.requestHeaders) == b"multipart/form-data":
            self.content = UploadBody(site.jobs.settings, self.requestHeaders, length)
        else:
            self.content = JsonBody(length)

    def process(self):
        if getattr(self, "bgserverShadow", None) is None:
            self.channel.site.noteWhenDone(self)
        server.Request.process(self)

    def connectionLost(self, reason):
        self.gone = True
        server.Request.connectionLost(self, reason)

    def processingFailed(self, reason):
        """
        Answer 500, or cut the connection where the answer has begun.
        """
        name = str(uuid.uuid4())
        self.log.failure("Request {name} failed: {method} {uri}", reason, name=name,
                         method=self.method, uri=self.uri)
        if self.gone or self.finished:
            return
        if self.startedWriting:
            self.loseConnection()
            return
        self.responseHeaders.setRawHeaders(b"X-Request-Id", [name.encode()])
        self.answerError(
            http.INTERNAL_SERVER_ERROR, "internal", "an unexpected error, request " + name
        )

    def answer(self, status, value):
        """
        Answer with JSON.
        """
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        self.answerBytes(status, JSON, body)

    def answerError(self, status, code, message):
        self.answer(status, {"error": code, "message": message})

    def answerBytes(self, status, contentType, body):
        if self.gone:
            return
        self.setResponseCode(status)
        if contentType is not None:
            self.setHeader(b"Content-Type", contentType)
        if status not in http.NO_BODY_CODES:
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def tell(self, effects):
        """
        Tell a harness, where there is one, what this request has created.
        """
        listener = getattr(self, "bgserverEffects", None)
        if listener is not None:
            for kind, key, value in effects:
                listener(kind, key, value)


class Page(resource.Resource):
    """
    One path.  Subclasses have C{render_GET} and the like; what they return
    is the answer's value, L{server.NOT_DONE_YET}, or a Deferred of either.
    """

    status = http.OK
    allowed = ("OPTIONS",)

    def __init_subclass__(cls):
        methods = {name[len("render_") :] for name in dir(cls) if name.startswith("render_")}
        if "GET" not in methods:
            # A Resource answers HEAD with its render_GET, whether it has one or not.
            methods.discard("HEAD")
        cls.allowed = tuple(sorted(methods | {"OPTIONS"}))

    def __init__(self, jobs):
        resource.Resource.__init__(self)
        self.jobs = jobs

    def getChild(self, path, request):
        return NotFound(self.jobs)

    def render(self, request):
        method = request.method.decode("latin-1")
        try:
            if method == "OPTIONS":
                return self.options(request)
            if method not in self.allowed:
                allow = ", ".join(self.allowed).encode()
                raise Refusal(
                    http.NOT_ALLOWED,
                    "method_not_allowed",
                    f"{method} is not allowed here",
                    [(b"Allow", allow)],
                )
            answer = getattr(self, "render_" + method)(request)
        except Exception:
            self.failed(Failure(), request)
            return server.NOT_DONE_YET
        if isinstance(answer, defer.Deferred):
            answer.addCallback(self.finished, request)
            answer.addErrback(self.failed, request)
        else:
            self.finished(answer, request)
        return server.NOT_DONE_YET

    def render_HEAD(self, request):
        return self.render_GET(request)

    def options(self, request):
        request.setHeader(b"Allow", ", ".join(self.allowed).encode())
        request.answerBytes(http.OK, None, b"")
        return server.NOT_DONE_YET

    def finished(self, answer, request):
        if answer is not server.NOT_DONE_YET:
            request.answer(self.status, answer)

    def failed(self, why, request):
        refusal = why.check(Refusal) and why.value
        if not refusal:
            request.processingFailed(why)
        elif not request.gone:
            for name, value in refusal.headers:
                request.setHeader(name, value)
            request.answerError(refusal.status, refusal.code, refusal.message)

    def accept(self, request, interaction, *args):
        """
        Run C{interaction(entry, *args)} in one transaction, then start the
        tasks that it has written.

        @return: a Deferred of what it returns.
        """
        entry = Entry(self.jobs)

        def accepted(result):
            request.tell(entry.effects)
            self.jobs.engine.start(request, entry.taskIds)
            return result

        return self.jobs.database.write(entry.run, interaction, *args).addCallback(accepted)


class NotFound(Page):
    """
    Any path that isn't there, whatever the method.
    """

    def render(self, request):
        self.failed(Failure(notFound()), request)
        return server.NOT_DONE_YET


class Folder(NotFound):
    """
    What is no page itself, and only has some below it.
    """


class Draining(Page):
    """
    Every path, once the server is stopping.
    """

    def render(self, request):
        refusal = Refusal(
            http.SERVICE_UNAVAILABLE,
            "draining",
            "the server is stopping",
            [(b"Retry-After", b"5")],
        )
        self.failed(Failure(refusal), request)
        return server.NOT_DONE_YET


class Entry:
    """
    What one request writes, in one transaction.

    @ivar effects: (kind, key, value) of everything created.
    @ivar taskIds: the tasks among it, in their order.
    """

    def __init__(self, jobs):
        self.jobs = jobs
        self.effects = []
        self.taskIds = []

    def run(self, connection, interaction, *args):
        self.connection = connection
        return interaction(self, *args)

    def task(self, name, params, after=None):
        """
        @return: the new task's id.
        """
        taskId = tasks.insert(self.connection, name, params, after, self.jobs.engine.rowsSay)
        self.taskIds.append(taskId)
        self.effects.append(("row", "tasks:" + name, params))
        return taskId

    def row(self, table, shown, **values):
        """
        @param shown: the columns that mean the same in every copy of the
            database: neither ids nor times.
        @return: whether it is there now; not so where one with the same
            key was there before.
        """
        inserted = self.connection.execute(
            f"INSERT INTO {table} ({', '.join(values)})"
            f" VALUES (:{', :'.join(values)}) ON CONFLICT DO NOTHING",
            **values,
        )
        if inserted:
            self.effects.append(("row", table, {name: values[name] for name in shown}))
        return bool(inserted)


class Site(server.Site):
    """
    The Site of the job server.

    @ivar draining: set when the server begins to stop.
    """

    requestFactory = Request
    draining = False

    def __init__(self, root, jobs, requestLog, **keywords):
        server.Site.__init__(self, root, parsePOSTFormSubmission=False, **keywords)
        self.jobs = jobs
        self.requestLog = requestLog
        self.active = 0
        self._quiet = []

    def getResourceFor(self, request):
        if self.draining:
            return Draining(self.jobs)
        return server.Site.getResourceFor(self, request)

    def noteWhenDone(self, request):
        """
        Count the request, and log it once it has been answered.
        """
        self.active += 1
        request.notifyFinish().addBoth(self._done, request)

    def _done(self, result, request):
        self.active -= 1
        line = {
            "at": timestamp(),
            "method": request.method.decode("latin-1"),
            "path": request.path.decode("latin-1"),
            "status": request.code,
        }
        self.requestLog.note(line)
        if not self.active:
            waiting, self._quiet = self._quiet, []
            for each in waiting:
                each.callback(None)

    def whenQuiet(self):
        """
        @return: a Deferred that fires when no request is being answered.
        """
        if not self.active:
            return defer.succeed(None)
        waiting = defer.Deferred()
        self._quiet.append(waiting)
        return waiting
