"""
Owns what C{--legacy} and C{--modern} name: it finds the object, and says in one line
what is wrong where it can't.

Refuses: to start anything.  A service that it returns hasn't been started, and a Site
hasn't listened.
"""

from __future__ import annotations

import importlib
import inspect
import shlex
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import twisted
from twisted.application.service import IService, IServiceCollection, IServiceMaker
from twisted.application.service import loadApplication as load_application
from twisted.internet.error import ReactorAlreadyInstalledError
from twisted.plugin import getPlugins
from twisted.python.components import Componentized
from twisted.python.usage import UsageError
from twisted.web.resource import IResource
from twisted.web.server import Site

import bridge
from bridge.errors import EarlyRunError, LoadError

AsgiApp = Callable[..., Awaitable[None]]

LEGACY_FORMS = (
    "module:name of a Resource, a Site, an IService, an Application or a callable that "
    "returns one; the path of a .tac; or 'plugin:NAME OPTIONS' for a twistd plugin"
)

_NOT_THEIRS = tuple(str(Path(where).parent) + "/" for where in (twisted.__file__, bridge.__file__))


@attrs.frozen
class LoadedLegacy:
    """
    The legacy application, found and not started. One of C{site} and C{service} is set.

    @ivar site: Where a Resource or a Site was named: it listens nowhere by itself.
    @ivar service: What is to be started; its Sites listen by their own calls.
    @ivar application: Where there is one: its components (C{IProcess}: uid and gid,
        C{ILogObserver}) are twistd's business.
    """

    source: str
    site: Any | None = None
    service: Any | None = None
    application: Any | None = None


def load_legacy(text: str, settings: Mapping[str, Any] | None, base: Path) -> LoadedLegacy:
    """
    Load what C{--legacy} names. Call it once our reactor is installed.

    @param settings: Given to a callable that has a C{settings} parameter.
    @param base: Where a relative C{.tac} path starts, and importable.
    @raise LoadError: With the remedy, if that can't be used.
    """
    if text.startswith("plugin:"):
        return LoadedLegacy(text, service=_plugin(text))
    if text.endswith(".tac"):
        return _tac(text, base)
    found = _imported(text, "--legacy", LEGACY_FORMS, base)
    if not _ready(found) and callable(found):
        found = _called(text, "--legacy", found, settings)
    return _legacy(text, found)


def load_modern(text: str, settings: Mapping[str, Any] | None, base: Path | None = None) -> AsgiApp:
    """
    Load what C{--modern} names: an ASGI application, or its factory, which is what can
    be called without arguments or with C{settings} alone.

    @raise LoadError: With the remedy, if that can't be used.
    """
    forms = "module:name of an ASGI application or of a factory that returns one"
    found = _imported(text, "--modern", forms, base)
    if not callable(found):
        raise LoadError("--modern", text, f"that is {_kind(found)}, and can't be called", forms)
    if _is_factory(found):
        found = _called(text, "--modern", found, settings)
        if not callable(found):
            raise LoadError(
                "--modern", text, f"the factory returned {_kind(found)}", "Return the ASGI application."
            )
    if _required(found) is not None and len(_required(found) or ()) == 1:
        raise LoadError(
            "--modern",
            text,
            f"{_kind(found)} takes one argument, as ASGI 2 applications do",
            "Wrap it with asgiref.compatibility.guarantee_single_callable.",
        )
    app: AsgiApp = found
    return app


def load_session_view(text: str, base: Path | None = None) -> Any:
    """
    Load what C{[legacy] session} names: a L{bridge.web.sessions.SessionView}, or a class
    of them.

    @raise LoadError: With the remedy, if that can't be used.
    """
    forms = "module:name of an object, or of its class, with the methods read, write and user"
    found = _imported(text, "[legacy] session", forms, base)
    view = found() if isinstance(found, type) else found
    missing = [name for name in ("read", "write", "user") if not callable(getattr(view, name, None))]
    if missing:
        raise LoadError("[legacy] session", text, f"it has no {', '.join(missing)}", f"Name {forms}.")
    return view


# the forms of --legacy


def _ready(found: Any) -> bool:
    return (
        IResource.providedBy(found)
        or isinstance(found, Site | Componentized)
        or IService.providedBy(found)
    )


def _legacy(text: str, found: Any) -> LoadedLegacy:
    if isinstance(found, Site):
        return LoadedLegacy(text, site=found)
    if IService.providedBy(found):
        return LoadedLegacy(text, service=found)
    if IResource.providedBy(found):
        return LoadedLegacy(text, site=Site(found))
    if isinstance(found, Componentized):
        service = IService(found, None)
        if service is not None:
            return LoadedLegacy(text, service=service, application=found)
    resource = getattr(found, "resource", None)
    if callable(resource):
        # Klein's applications, and others that keep their resource behind a method.
        made = resource()
        if IResource.providedBy(made):
            return LoadedLegacy(text, site=Site(made))
    raise LoadError("--legacy", text, f"that is {_kind(found)}", f"Name {LEGACY_FORMS}.")


def _tac(text: str, base: Path) -> LoadedLegacy:
    path = base / Path(text).expanduser()
    if not path.is_file():
        raise LoadError("--legacy", text, f"there is no file {path}", "Check the path.")
    try:
        application = load_application(str(path), "python")
    except Exception as e:
        if isinstance(e, KeyError) and e.args == ("application",) and _place(e).rpartition(":")[0].endswith("sob.py"):
            raise LoadError(
                "--legacy",
                text,
                "it defines no `application`",
                "Make it with twisted.application.service.Application(name).",
            ) from e
        raise _failed("--legacy", text, e) from e
    service = IService(application, None)
    if service is None:
        raise LoadError(
            "--legacy",
            text,
            f"its `application` is {_kind(application)}",
            "Make it with twisted.application.service.Application(name).",
        )
    # An Application without children would start, and serve nothing for ever.
    children: Any = IServiceCollection(application, None)
    if children is not None and not list(iter(children)):
        raise LoadError(
            "--legacy", text, "its `application` has no services", "Call setServiceParent(application)."
        )
    return LoadedLegacy(text, service=service, application=application)


def _plugin(text: str) -> Any:
    try:
        words = shlex.split(text.removeprefix("plugin:"))
    except ValueError as e:
        raise LoadError("--legacy", text, f"its quotes don't match ({e})", "Quote it as for a shell.") from e
    makers: dict[str, Any] = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
    if not words or words[0] not in makers:
        known = ", ".join(sorted(name for name in makers if name != "bgserver"))
        raise LoadError("--legacy", text, "twistd has no such plugin", f"It has: {known}.")
    maker = makers[words[0]]
    try:
        options = maker.options()
        options.parseOptions(words[1:])
        service = maker.makeService(options)
    except UsageError as e:
        raise LoadError(
            "--legacy", text, str(e), f"`twistd {words[0]} --help` lists its options."
        ) from e
    except SystemExit as e:
        # --help and --version print and exit.
        raise LoadError("--legacy", text, "the plugin ended the process", "Leave that option out.") from e
    except Exception as e:
        raise _failed("--legacy", text, e) from e
    return service


# importing and calling


def _imported(text: str, option: str, forms: str, base: Path | None) -> Any:
    name, colon, attributes = text.partition(":")
    if not colon or not name or not attributes:
        raise LoadError(option, text, "that is not module:name", f"Name {forms}.")
    # twistd leaves the current folder off the path; uvicorn puts it there.
    for folder in (str(base) if base is not None else "", str(Path.cwd())):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is not None and (name == e.name or name.startswith(e.name + ".")):
            raise LoadError(
                option,
                text,
                f"there is no module {e.name!r}",
                "The folder of the policy file and the current folder are importable; so is what is installed.",
            ) from e
        raise LoadError(
            option, text, f"{name} imports {e.name!r}, which isn't there", "Install it in this environment."
        ) from e
    except Exception as e:
        raise _failed(option, text, e) from e
    reached = name
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            near = [n for n in dir(found) if not n.startswith("_")][:12]
            raise LoadError(
                option, text, f"{reached} has no {attribute!r}", f"It has: {', '.join(near)}."
            ) from None
        reached += "." + attribute
    return found


def _required(found: Any) -> list[str] | None:
    """
    The parameters without defaults; None where a callable doesn't tell.
    """
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in fixed]


def _is_factory(found: Any) -> bool:
    if inspect.iscoroutinefunction(found):
        return False
    required = _required(found)
    if required is None:
        return isinstance(found, type)
    signature = inspect.signature(found).parameters.values()
    if not required and any(p.kind is p.VAR_POSITIONAL for p in signature):
        # Decorated applications say (*args, **kwargs).
        return isinstance(found, type)
    return required in ([], ["settings"])


def _called(text: str, option: str, factory: Any, settings: Mapping[str, Any] | None) -> Any:
    required = _required(factory) or []
    if required not in ([], ["settings"]):
        raise LoadError(
            option,
            text,
            f"it can't be called without {', '.join(required)}",
            "Name a callable that takes nothing, or `settings` alone.",
        )
    try:
        wants = "settings" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        wants = False
    try:
        if wants and (settings is not None or required):
            return factory(settings=dict(settings or {}))
        return factory()
    except Exception as e:
        raise _failed(option, text, e) from e


def _failed(option: str, text: str, error: Exception) -> LoadError:
    """
    The user's code raised: say where, in one line, instead of a traceback.
    """
    where = _place(error)
    if isinstance(error, EarlyRunError):
        return LoadError(option, text, f"it called reactor.run(){where}", error.remedy)
    if isinstance(error, ReactorAlreadyInstalledError):
        remedy = "Take that out: `--loop` chooses the event loop, and Twisted's API is the same on it."
        return LoadError(option, text, f"it installed a reactor of its own{where}", remedy)
    return LoadError(
        option, text, f"it raised {type(error).__name__}: {error}{where}", "Mend that, then start again."
    )


def _place(error: Exception) -> str:
    """
    The last line of the user's own that ran, or else the last one that did.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)] or frames
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _kind(found: Any) -> str:
    kind = type(found)
    if kind.__module__ == "builtins":
        return f"{kind.__name__} {found!r}"[:80]
    return f"a {kind.__module__}.{kind.__qualname__}"
