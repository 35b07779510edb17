"""
Sessions: C{/login}, C{/me} and C{/logout}.

The session is twisted.web's own, in the server's memory; what we know of
the client is a component of it.
"""

from twisted.python.components import registerAdapter
from twisted.web import http, server
from twisted.web.server import NOT_DONE_YET
from zope.interface import Attribute, Interface, implementer

from legacy_twisted.fields import body
from legacy_twisted.web import Page, Refusal


class IVisitor(Interface):
    """
    Who has logged in.
    """

    name = Attribute("The name that was given, or None before.")
    visits = Attribute("How many answers told them so.")


@implementer(IVisitor)
class Visitor:
    name = None
    visits = 0

    def __init__(self, session):
        pass

    def visit(self):
        self.visits += 1
        return {"name": self.name, "visits": self.visits}


registerAdapter(Visitor, server.Session, IVisitor)


def visitorOf(request):
    """
    @return: the request's visitor, or L{None} when nobody is logged in.
    """
    name = b"TWISTED_SECURE_SESSION" if request.isSecure() else b"TWISTED_SESSION"
    cookie = request.getCookie(b"_".join([name, *request.sitepath]))
    try:
        # Not request.getSession(): whoever has none would be given one.
        request.site.getSession(cookie)
    except KeyError:
        return None
    visitor = request.getSession(IVisitor)
    return visitor if visitor.name is not None else None


class VisitorView:
    """
    The visitor as a mapping, for whoever shares our sessions: C{name} and C{visits},
    and nothing for who hasn't logged in.
    """

    def read(self, session):
        visitor = IVisitor(session)
        if visitor.name is None:
            return {}
        return {"name": visitor.name, "visits": visitor.visits}

    def write(self, session, values):
        visitor = IVisitor(session)
        visitor.name, visitor.visits = values.get("name"), values.get("visits", 0)

    def user(self, session):
        return IVisitor(session).name


class Login(Page):
    """
    C{POST /login}.
    """

    def render_POST(self, request):
        name = body(request).line("name", 100)
        visitor = request.getSession(IVisitor)
        visitor.name, visitor.visits = name, 0
        return visitor.visit()


class Me(Page):
    """
    C{GET /me}.
    """

    def render_GET(self, request):
        visitor = visitorOf(request)
        if visitor is None:
            raise Refusal(http.UNAUTHORIZED, "not_logged_in", "log in first")
        return visitor.visit()


class Logout(Page):
    """
    C{POST /logout}.
    """

    def render_POST(self, request):
        visitor = visitorOf(request)
        if visitor is not None:
            visitor.name, visitor.visits = None, 0
            request.getSession().expire()
        request.answerBytes(http.NO_CONTENT, None, b"")
        return NOT_DONE_YET
