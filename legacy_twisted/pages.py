"""
The pages that accept work and answer at once, and the front page.
"""

import json

from twisted.internet import defer
from twisted.web import http
from twisted.web.server import NOT_DONE_YET

from legacy_twisted import fields
from legacy_twisted.fields import body, newId, query
from legacy_twisted.tasks import timestamp, until
from legacy_twisted.web import Folder, NotFound, Page, Refusal


class Hello(Page):
    """
    C{GET /}.
    """

    def render_GET(self, request):
        request.answerBytes(http.OK, b"text/html; charset=utf-8", b"Hello, world!")
        return NOT_DONE_YET


class Health(Page):
    """
    C{GET /healthz}: the loops, as the database has them.
    """

    LATE = 30.0  # seconds; a loop that runs ticks more often than this

    @defer.inlineCallbacks
    def render_GET(self, request):
        rows = yield self.jobs.database.read(allLoops)
        loops = [self.describe(row) for row in rows]
        ill = any(self.isIll(loop) for loop in loops)
        request.setHeader(b"Cache-Control", b"no-store")
        request.answer(
            http.SERVICE_UNAVAILABLE if ill else http.OK,
            {"status": "degraded" if ill else "ok", "loops": loops},
        )
        return NOT_DONE_YET

    def describe(self, row):
        age = None
        if row["last_tick"] is not None:
            age = round(max(0.0, -until(row["last_tick"])), 1)
        owner = row["owner"] and row["owner"].partition(":")[0]
        return {"name": row["name"], "owner": owner, "state": row["state"], "age": age}

    def isIll(self, loop):
        if loop["state"] == "failed":
            return True
        if loop["state"] != "running" or loop["name"] == "daily_report":
            return False
        return loop["age"] is not None and loop["age"] > self.LATE


def allLoops(connection):
    return connection.rows("SELECT name, owner, state, last_tick FROM loops ORDER BY name")


class Notifications(Folder):
    """
    C{/send-notification/{email}}.
    """

    def getChild(self, path, request):
        return Notification(self.jobs, path) if path else NotFound(self.jobs)


class Notification(Page):
    """
    C{POST /send-notification/{email}?message=}.
    """

    status = http.ACCEPTED

    def __init__(self, jobs, email):
        Page.__init__(self, jobs)
        self.email = email

    def render_POST(self, request):
        email = fields.segment("email", self.email).email("email")
        message = query(request).text("message", 1000)
        return self.accept(request, self.queue, email, message)

    def queue(self, entry, email, message):
        taskId = entry.task("notification.write", {"email": email, "message": message})
        return {"message": "notification queued", "task_id": taskId}


class Log(Page):
    """
    C{POST /log?message=}.
    """

    status = http.ACCEPTED

    def render_POST(self, request):
        return self.accept(request, self.queue, query(request).text("message", 1000))

    def queue(self, entry, message):
        return {"message": "log queued", "task_id": entry.task("log.write", {"message": message})}


class SendEmail(Page):
    """
    C{POST /send-email}.
    """

    status = http.ACCEPTED

    def render_POST(self, request):
        given = body(request)
        params = {
            "email": given.email("email"),
            "subject": given.line("subject", 200),
            "body": given.text("body", 100000),
        }
        return self.accept(request, self.queue, params)

    def queue(self, entry, params):
        taskId = entry.task("email.send", params)
        return {"message": "email queued", "email": params["email"], "task_id": taskId}


class Subscribe(Page):
    """
    C{POST /subscribe}.
    """

    status = http.ACCEPTED

    def render_POST(self, request):
        return self.accept(request, self.queue, body(request).email("email"))

    def queue(self, entry, email):
        taskId = entry.task("subscription.confirm", {"email": email})
        return {"message": "subscription queued", "email": email, "task_id": taskId}


class Register(Page):
    """
    C{POST /register}: one account, and three tasks in a row.
    """

    status = http.CREATED

    def render_POST(self, request):
        given = body(request)
        return self.accept(request, self.register, given.email("email"), given.line("name", 200))

    def register(self, entry, email, name):
        userId = newId()
        created = entry.row(
            "users",
            ("user_id", "email", "name"),
            user_id=userId,
            email=email,
            email_key=email.lower(),
            name=name,
            created_at=timestamp(),
        )
        if not created:
            raise Refusal(http.CONFLICT, "conflict", "this e-mail address is registered")
        person = {"user_id": userId, "email": email, "name": name}
        welcome = entry.task("email.welcome", person)
        directory = entry.task("directory.create", person, after=welcome)
        admin = entry.task("admin.notify", {"user_id": userId, "email": email}, after=directory)
        return dict(person, task_ids=[welcome, directory, admin])


class Items(Page):
    """
    C{POST /items?name=}.
    """

    status = http.CREATED

    def render_POST(self, request):
        return self.accept(request, self.create, query(request).line("name", 200))

    def create(self, entry, name):
        itemId = newId()
        entry.row("items", ("item_id", "name"), item_id=itemId, name=name, created_at=timestamp())
        taskId = entry.task("log.write", {"message": f"item {itemId} created: {name}"})
        return {"item_id": itemId, "name": name, "task_id": taskId}


class Process(Page):
    """
    C{POST /process}, a JSON object; and C{/process/{item_id}} below it.
    """

    status = http.ACCEPTED

    def getChild(self, path, request):
        return ProcessItem(self.jobs, path) if path else NotFound(self.jobs)

    def render_POST(self, request):
        return self.accept(request, self.queue, fields.jsonObject(request))

    def queue(self, entry, data):
        return {"task_id": entry.task("data.process", {"data": data})}


class ProcessItem(Page):
    """
    C{POST /process/{item_id}?q=}: the task of C{q} runs before our own.
    """

    status = http.ACCEPTED

    def __init__(self, jobs, itemId):
        Page.__init__(self, jobs)
        self.itemId = itemId

    def render_POST(self, request):
        itemId = fields.segment("item_id", self.itemId).line("item_id", 200)
        given = query(request)
        q = given.text("q", 1000) if given.has("q") else None
        return self.accept(request, self.queue, itemId, q)

    def queue(self, entry, itemId, q):
        taskIds = []
        if q is not None:
            taskIds.append(entry.task("log.write", {"message": f"query: {q}"}))
        message = {"message": f"item {itemId} processed"}
        taskIds.append(entry.task("log.write", message, after=taskIds[0] if taskIds else None))
        return {"item_id": itemId, "query": q, "task_ids": taskIds}


class Cleanup(Page):
    """
    C{POST /cleanup?days=7}.
    """

    status = http.ACCEPTED

    def render_POST(self, request):
        given = query(request)
        days = given.integer("days", 0, 36500) if given.has("days") else 7
        return self.accept(request, self.queue, days)

    def queue(self, entry, days):
        return {"days": days, "task_id": entry.task("files.cleanup", {"days": days})}


class Number(Page):
    """
    A page that takes one number, and has one task for it.
    """

    status = http.ACCEPTED

    def __init__(self, jobs, task, field, highest):
        Page.__init__(self, jobs)
        self.task = task
        self.field = field
        self.highest = highest

    def render_POST(self, request):
        number = body(request).integer(self.field, 0, self.highest)
        return self.accept(request, self.queue, number)

    def queue(self, entry, number):
        return {"task_id": entry.task(self.task, {self.field: number})}


class DailyReport(Page):
    """
    C{GET /report/daily}: the last one.
    """

    @defer.inlineCallbacks
    def render_GET(self, request):
        row = yield self.jobs.database.read(lastReport)
        if row is None:
            raise Refusal(http.NOT_FOUND, "not_found", "no report yet")
        return json.loads(row["body"])


def lastReport(connection):
    return connection.row("SELECT body FROM reports ORDER BY day DESC LIMIT 1")
