"""
The first article's program, as it stands: a Resource that says hello, and a worker whose loop never ends, under
deferToThread. It has no stop, on purpose.
"""

from __future__ import annotations

import time

from twisted.application import internet, service
from twisted.internet import threads
from twisted.web import resource, server


class Hello(resource.Resource):
    isLeaf = True

    def render_GET(self, request: server.Request) -> bytes:
        return b"Hello, world!"


class BackgroundWorker:
    def run(self) -> None:
        while True:
            print("working", flush=True)
            time.sleep(0.05)


class Working(service.Service):
    def startService(self) -> None:
        service.Service.startService(self)
        threads.deferToThread(BackgroundWorker().run)


def make_service() -> service.MultiService:
    tree = service.MultiService()
    internet.TCPServer(0, server.Site(Hello()), interface="127.0.0.1").setServiceParent(tree)
    Working().setServiceParent(tree)
    return tree


application = service.Application("article")
make_service().setServiceParent(application)
