"""
One job server, put together: the tree of services, and the Site.

C{make_service} gives the tree, not started; C{make_site} only the Site.
Nothing here runs or listens before C{startService}, no thread is made, and
the reactor is looked up only where the caller gave none, so that another
one may be installed first.
"""

import datetime
import os
import uuid

from twisted.application import service, strports
from twisted.internet import defer
from twisted.logger import Logger

from legacy_twisted import chores, filepages, pages, sessionpages, taskpages
from legacy_twisted.database import Database
from legacy_twisted.engines import ENGINES
from legacy_twisted.eventpages import Events, EventSource
from legacy_twisted.notify import Notify
from legacy_twisted.presence import Presence
from legacy_twisted.processes import Processes
from legacy_twisted.requestlog import RequestLog
from legacy_twisted.rescue import Rescue
from legacy_twisted.settings import SettingsError, makeSettings
from legacy_twisted.web import Folder, Site
from legacy_twisted.worker import Consumer

FOLDERS = ("uploads", "processed", "exports", "outbox")
LOOPS = {
    loop.name: loop
    for loop in (
        Consumer,
        Rescue,
        chores.DailyReport,
        chores.CacheRefresh,
        chores.Cleanup,
    )
}


class Jobs:
    """
    What pages, loops and tasks share.

    @ivar boot: the id of this start of the server; rows that it runs bear it.
    @ivar owner: the same with our side's name, for the table of loops.
    """

    def __init__(self, settings, reactor):
        self.settings = settings
        self.reactor = reactor
        self.boot = str(uuid.uuid4())
        self.owner = "legacy:" + self.boot
        self.database = Database(settings.databaseURL, reactor)
        self.processes = Processes()
        self.events = EventSource(self)
        self.engine = ENGINES[settings.engine](self)
        self._listeners = []

    def now(self):
        return datetime.datetime.now(datetime.UTC)

    def whenWork(self, listener):
        """
        Have C{listener()} called after each change of tasks made here.
        """
        self._listeners.append(listener)

    def noMoreWork(self, listener):
        if listener in self._listeners:
            self._listeners.remove(listener)

    def work(self):
        for listener in list(self._listeners):
            listener()


class JobServer(service.MultiService):
    """
    The tree.  It starts in the order of its children and stops in stages:
    new requests are refused, running ones are answered, loops end their
    ticks, and only then the database is closed.
    """

    log = Logger()
    site = None

    def __init__(self, jobs):
        service.MultiService.__init__(self)
        self.jobs = jobs

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        children = {child.name: child for child in self}
        last = [children.pop(name) for name in ("requestlog", "presence", "processes", "database")]
        self.site.draining = True
        self.jobs.database.hurry(self.jobs.settings.grace)
        web = children.pop("web", None)
        if web is not None:
            yield web.stopService()
        # Streams have no end of their own, and would be waited for.
        yield children.pop("events").stopService()
        yield self._quiet()
        stopping = [defer.maybeDeferred(child.stopService) for child in children.values()]
        yield defer.DeferredList(stopping, consumeErrors=True)
        for child in last:
            try:
                yield child.stopService()
            except Exception:
                self.log.failure("{name} didn't stop well", name=child.name)

    def _quiet(self):
        quiet = self.site.whenQuiet()
        quiet.addTimeout(self.jobs.settings.grace, self.jobs.reactor)
        return quiet.addErrback(lambda _: self.log.error("Requests were cut off by the stop"))


def make_root(jobs):
    """
    The tree of resources.
    """
    root = Folder(jobs)
    root.putChild(b"", pages.Hello(jobs))
    root.putChild(b"healthz", pages.Health(jobs))
    root.putChild(b"send-notification", pages.Notifications(jobs))
    root.putChild(b"send-email", pages.SendEmail(jobs))
    root.putChild(b"subscribe", pages.Subscribe(jobs))
    root.putChild(b"register", pages.Register(jobs))
    root.putChild(b"items", pages.Items(jobs))
    root.putChild(b"process", pages.Process(jobs))
    root.putChild(b"log", pages.Log(jobs))
    root.putChild(b"events", Events(jobs))
    root.putChild(b"login", sessionpages.Login(jobs))
    root.putChild(b"me", sessionpages.Me(jobs))
    root.putChild(b"logout", sessionpages.Logout(jobs))
    root.putChild(b"upload", filepages.Uploads(jobs))
    root.putChild(b"export", filepages.Exports(jobs))
    root.putChild(b"cleanup", pages.Cleanup(jobs))
    root.putChild(b"compute", pages.Number(jobs, "compute.primes", "n", 10000000))
    root.putChild(b"unstable", pages.Number(jobs, "api.unstable", "failures", 100))
    root.putChild(b"task", taskpages.TaskPages(jobs))
    root.putChild(b"tasks", taskpages.TaskList(jobs))
    report = Folder(jobs)
    report.putChild(b"daily", pages.DailyReport(jobs))
    root.putChild(b"report", report)
    return root


def make_site(jobs, requestLog):
    return Site(make_root(jobs), jobs, requestLog, reactor=jobs.reactor)


def make_service(settings=None, reactor=None):
    """
    The whole server.

    @param settings: a mapping of names as in C{settings.py}; L{None} takes
        the environment.
    @raise SettingsError: and L{DatabaseError}: one line each, and nothing
        was started.
    """
    if reactor is None:
        from twisted.internet import reactor
    settings = makeSettings(settings)
    prepareFolders(settings)
    jobs = Jobs(settings, reactor)
    jobs.database.migrate()

    tree = JobServer(jobs)
    requestLog = RequestLog(settings.path("requests.log"), reactor)
    tree.site = make_site(jobs, requestLog)
    try:
        web = strports.service(settings.listen, tree.site, reactor)
    except ValueError as error:
        raise SettingsError("listen", settings.listen, str(error)) from None
    notify = [("notify", Notify(jobs))] if jobs.database.flavour == "postgresql" else []
    loops = [(name, LOOPS[name](jobs)) for name in settings.loops]
    for name, child in [
        ("database", jobs.database),
        ("processes", jobs.processes),
        ("presence", Presence(jobs)),
        ("requestlog", requestLog),
        ("engine", jobs.engine),
        ("events", jobs.events),
        *notify,
        *loops,
        ("web", web),
    ]:
        child.setName(name)
        child.setServiceParent(tree)
    return tree


def prepareFolders(settings):
    for folder in ("", *FOLDERS):
        path = settings.path(folder)
        try:
            os.makedirs(path, exist_ok=True)
            probe = os.path.join(path, f".probe-{os.getpid()}")
            open(probe, "wb").close()
            os.remove(probe)
        except OSError as error:
            remedy = f"the folder {path} can't be written ({error.strerror})"
            raise SettingsError("data", settings.data, remedy) from None


