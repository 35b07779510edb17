"""
Uploads and exports: files that come and go.

A download is a producer: it reads the next piece when the client has taken
the last one, so that a slow client costs no memory.
"""

import email.utils
import os
import re

from twisted.internet import defer
from twisted.internet.interfaces import IPullProducer
from twisted.web import http
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from legacy_twisted import fields
from legacy_twisted.bodies import mediaType
from legacy_twisted.fields import identifier, newId, query
from legacy_twisted.multipart import Malformed
from legacy_twisted.tasks import timestamp
from legacy_twisted.web import NotFound, Page, Refusal, notFound

CHUNK = 65536
RANGE = re.compile(rb"bytes=(\d*)-(\d*)", re.IGNORECASE)


class Uploads(Page):
    """
    C{POST /upload}, and C{/upload/{upload_id}} below it.
    """

    status = http.ACCEPTED

    def getChild(self, path, request):
        return Upload(self.jobs, path) if path else NotFound(self.jobs)

    @defer.inlineCallbacks
    def render_POST(self, request):
        if mediaType(request.requestHeaders) != b"multipart/form-data":
            raise fields.badMediaType("the body must be multipart/form-data")
        content = fields.received(request)
        filename = self.check(content)
        uploadId = newId()
        path = self.jobs.settings.path("uploads", uploadId)
        content.keep(path)
        try:
            answer = yield self.accept(request, self.queue, uploadId, filename, content.size)
        except BaseException:
            os.remove(path)
            raise
        return answer

    def check(self, content):
        """
        @return: the name to show for the file.
        """
        given = fields.Fields("bad_field", {})
        try:
            content.complete()
        except Malformed:
            raise given.refuse("file", "malformed multipart") from None
        if not content.found:
            raise given.refuse("file", "missing")
        name = shownName(content.filename or "")
        if not name:
            raise given.refuse("file", "must be a file")
        return name

    def queue(self, entry, uploadId, filename, size):
        taskId = entry.task("file.process", {"upload_id": uploadId})
        entry.row(
            "uploads",
            ("filename", "size"),
            upload_id=uploadId,
            filename=filename,
            size=size,
            task_id=taskId,
            created_at=timestamp(),
        )
        entry.effects.append(("file", "uploads/" + uploadId, size))
        return {"upload_id": uploadId, "filename": filename, "task_id": taskId}


def shownName(filename):
    """
    What is left of a client's file name.  It names nothing on our disk.
    """
    name = re.split(r"[/\\]", filename)[-1]
    return re.sub("[\0-\x1f\x7f]", "", name)[:200]


class Exports(Page):
    """
    C{POST /export?format=}, and C{/export/{export_id}} below it.
    """

    status = http.ACCEPTED

    def getChild(self, path, request):
        return Export(self.jobs, path) if path else NotFound(self.jobs)

    def render_POST(self, request):
        given = query(request)
        kind = "csv"
        if given.has("format"):
            kind = given.choice("format", ("csv", "json"), "must be csv or json")
        return self.accept(request, self.queue, kind)

    def queue(self, entry, kind):
        exportId = newId()
        taskId = entry.task("export.data", {"export_id": exportId, "format": kind})
        entry.row(
            "exports",
            ("export_id", "format"),
            export_id=exportId,
            format=kind,
            task_id=taskId,
            created_at=timestamp(),
        )
        return {"export_id": exportId, "task_id": taskId}


class Download(Page):
    """
    A file that a task makes.
    """

    def __init__(self, jobs, name):
        Page.__init__(self, jobs)
        self.name = name

    @defer.inlineCallbacks
    def render_GET(self, request):
        identity = identifier(self.name, self.what)
        row = yield self.jobs.database.read(self.find, identity)
        if row is None:
            raise notFound(self.what)
        if row["status"] in ("FAILURE", "CANCELLED"):
            raise Refusal(http.CONFLICT, "not_ready", "its task ended " + row["status"])
        if row["status"] != "SUCCESS":
            raise Refusal(http.CONFLICT, "not_ready", "not ready yet")
        try:
            file = open(self.path(row), "rb")  # noqa: SIM115 - closed by sendFile()
        except FileNotFoundError:
            # It was cleaned up.
            gone = Refusal(http.NOT_FOUND, "not_found", "the file is gone")
            raise gone from None
        if request.gone:
            file.close()
        else:
            self.setHeaders(request, row)
            sendFile(request, file)
        return NOT_DONE_YET


class Upload(Download):
    """
    C{GET /upload/{upload_id}}.
    """

    what = "upload"

    def find(self, connection, identity):
        return connection.row(
            "SELECT u.upload_id, t.status FROM uploads u LEFT JOIN tasks t ON t.id = u.task_id"
            " WHERE u.upload_id = :id",
            id=identity,
        )

    def path(self, row):
        return self.jobs.settings.path("processed", row["upload_id"] + ".txt")

    def setHeaders(self, request, row):
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")


class Export(Download):
    """
    C{GET /export/{export_id}}.
    """

    what = "export"

    def find(self, connection, identity):
        return connection.row(
            "SELECT e.export_id, e.format, t.status"
            " FROM exports e LEFT JOIN tasks t ON t.id = e.task_id WHERE e.export_id = :id",
            id=identity,
        )

    def fileName(self, row):
        return "{}.{}".format(row["export_id"], row["format"])

    def path(self, row):
        return self.jobs.settings.path("exports", self.fileName(row))

    def setHeaders(self, request, row):
        types = {"csv": b"text/csv; charset=utf-8", "json": b"application/json"}
        request.setHeader(b"Content-Type", types[row["format"]])
        disposition = f'attachment; filename="export-{self.fileName(row)}"'
        request.setHeader(b"Content-Disposition", disposition.encode())


def sendFile(request, file):
    """
    Answer with a file, or the part that was asked for, or that it hasn't
    changed.  Closes the file in the end.
    """
    status = os.fstat(file.fileno())
    etag = b'"%x-%x"' % (status.st_size, status.st_mtime_ns)
    modified = email.utils.formatdate(int(status.st_mtime), usegmt=True).encode()
    request.setHeader(b"ETag", etag)
    request.setHeader(b"Last-Modified", modified)
    request.setHeader(b"Accept-Ranges", b"bytes")
    if isUnchanged(request, etag, int(status.st_mtime)):
        file.close()
        for name in (b"Content-Type", b"Content-Disposition", b"Accept-Ranges"):
            request.responseHeaders.removeHeader(name)
        request.answerBytes(http.NOT_MODIFIED, None, b"")
        return
    size = status.st_size
    first, last = 0, size - 1
    wanted = askedRange(request, etag, modified, size)
    if wanted is UNSATISFIABLE:
        file.close()
        for name in (b"Content-Disposition", b"ETag", b"Last-Modified"):
            request.responseHeaders.removeHeader(name)
        request.setHeader(b"Content-Range", b"bytes */%d" % size)
        request.answerError(
            http.REQUESTED_RANGE_NOT_SATISFIABLE, "bad_parameter", "Range: cannot be satisfied"
        )
        return
    if wanted is not None:
        first, last = wanted
        request.setResponseCode(http.PARTIAL_CONTENT)
        request.setHeader(b"Content-Range", b"bytes %d-%d/%d" % (first, last, size))
    request.setHeader(b"Content-Length", b"%d" % (last - first + 1))
    if request.method == b"HEAD" or last < first:
        file.close()
        request.write(b"")
        request.finish()
        return
    file.seek(first)
    FileProducer(request, file, last - first + 1).start()


def isUnchanged(request, etag, modified):
    tags = request.getHeader(b"If-None-Match")
    if tags is not None:
        known = [tag.strip() for tag in tags.split(b",")]
        return b"*" in known or etag in known or b"W/" + etag in known
    since = httpDate(request.getHeader(b"If-Modified-Since"))
    return since is not None and modified <= since


def httpDate(value):
    """
    @return: a POSIX time, or L{None} for what isn't a date.
    """
    if value is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(value.decode("ascii")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


UNSATISFIABLE = object()


def askedRange(request, etag, modified, size):
    """
    @return: the first and last byte of the one range that was asked for;
        L{None} for the whole file; or L{UNSATISFIABLE}.
    """
    found = RANGE.fullmatch((request.getHeader(b"Range") or b"").strip())
    if found is None or found.group(1) == found.group(2) == b"":
        return None
    condition = request.getHeader(b"If-Range")
    if condition is not None and condition.strip() not in (etag, modified):
        return None
    start, end = found.groups()
    if not start:
        length = min(int(end), size)
        return (size - length, size - 1) if length else UNSATISFIABLE
    first = int(start)
    last = min(int(end), size - 1) if end else size - 1
    if end and int(end) < first:
        return None
    return (first, last) if first < size else UNSATISFIABLE


@implementer(IPullProducer)
class FileProducer:
    """
    Sends C{left} bytes of a file, as fast as the client takes them.
    """

    def __init__(self, request, file, left):
        self.request = request
        self.file = file
        self.left = left

    def start(self):
        # Whether it ends or the client goes: the file is closed.
        self.request.notifyFinish().addBoth(lambda _: self.file.close())
        self.request.registerProducer(self, False)

    def resumeProducing(self):
        if self.file.closed:
            return
        data = self.file.read(min(CHUNK, self.left))
        self.left -= len(data)
        if not data:
            # Shorter than its size was: the client must not take it for whole.
            self.request.unregisterProducer()
            self.request.loseConnection()
            return
        self.request.write(data)
        if not self.left:
            self.request.unregisterProducer()
            self.request.finish()

    def stopProducing(self):
        self.file.close()
