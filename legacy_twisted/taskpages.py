"""
The pages that show and cancel tasks.
"""

from twisted.internet import defer
from twisted.web import http
from twisted.web.server import NOT_DONE_YET

from legacy_twisted import tasks
from legacy_twisted.fields import UUID, identifier, query
from legacy_twisted.web import Folder, NotFound, Page, Refusal, notFound


class TaskPages(Folder):
    """
    What is below C{/task}.
    """

    def getChild(self, path, request):
        return TaskPage(self.jobs, path) if path else NotFound(self.jobs)


class TaskPage(Page):
    """
    C{/task/{task_id}}.
    """

    def __init__(self, jobs, taskId):
        Page.__init__(self, jobs)
        self.taskId = taskId

    @defer.inlineCallbacks
    def render_GET(self, request):
        taskId = identifier(self.taskId, "task")
        task = yield self.jobs.database.read(tasks.find, taskId)
        if task is None:
            raise notFound("task")
        return task

    @defer.inlineCallbacks
    def render_DELETE(self, request):
        taskId = identifier(self.taskId, "task")
        cancelled = yield self.jobs.database.write(tasks.cancel, taskId)
        if cancelled is None:
            raise notFound("task")
        before, after = cancelled
        if before in tasks.TERMINAL:
            raise Refusal(http.CONFLICT, "finished", "the task has finished")
        # Whatever waited for this task may run now.
        self.jobs.work()
        request.answer(http.ACCEPTED, {"id": taskId, "status": after})
        return NOT_DONE_YET


class TaskList(Page):
    """
    C{GET /tasks?status=&name=&limit=&after=}.
    """

    @defer.inlineCallbacks
    def render_GET(self, request):
        given = query(request)
        status = name = after = None
        limit = 100
        if given.has("status"):
            remedy = "must be one of " + ", ".join(tasks.STATUSES)
            status = given.choice("status", tasks.STATUSES, remedy)
        if given.has("name"):
            name = given.line("name", 200)
        if given.has("limit"):
            limit = given.integer("limit", 1, 1000)
        if given.has("after"):
            after = given.string("after")
            if not UUID.fullmatch(after):
                raise given.refuse("after", "no such task")
        found = yield self.jobs.database.read(tasks.page, status, name, limit, after)
        if found is None:
            raise given.refuse("after", "no such task")
        return {"tasks": found[0], "next": found[1]}
