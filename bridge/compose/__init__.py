"""
Puts one server together from a policy: both applications, the routes at their stages,
the listeners, the state, the loops, and the order in which they start and stop.

It is the only room that knows all the others, and the same under twistd (which owns the
process, and we the loop) and under uvicorn (which owns both).

- L{compose}, here: loads and checks everything that can be checked before anything runs.
- L{server}: binds, starts, follows the state, stops.
- L{front_app}: the ASGI application that stands for the whole.
- L{loops}: the background loops that the policy names.
- L{stages}: where every route stands, as this process sees it.
- L{evidence}, L{sandboxes}: shadows, judgement and the gate; second instances for writes.
- L{reload}, L{logs}: SIGHUP; one log for both stacks.
- L{control}, L{figures}, L{presence}: what operators may ask and see.
- L{summary}: what a person is told at the start.

Refuses: to decide about requests, loops or stages; the rooms do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from bridge.admin import token_for
from bridge.compose.evidence import books_of
from bridge.compose.logs import into_logging, into_twisted
from bridge.compose.sandboxes import sandboxes
from bridge.compose.server import Server
from bridge.compose.stages import Stages
from bridge.config import BUILT, Config
from bridge.dispatch.books import Book
from bridge.errors import ConfigError, LoadError, StateError, StateUnavailableError
from bridge.loop import BridgeReactor, OnListen
from bridge.routing import Cell, RouteTable, Stage
from bridge.state.key import redaction_key
from bridge.state.stages import ROUTE, Snapshot
from bridge.state.store import Store
from bridge.state.thread import StateThread
from bridge.web.adopt import Adopter
from bridge.web.load import LoadedLegacy, load_legacy, load_modern, load_session_view

__all__ = ["Server", "compose"]


def compose(config: Config, reactor: BridgeReactor, *, owns_loop: bool = True) -> Server:
    """
    Load both applications and check the policy against them; nothing runs yet.

    @param owns_loop: False under uvicorn, which has the only listener then.
    @raise BridgeError: If anything can't be used, with the remedy.
    """
    if config.legacy is None and config.modern is None:
        raise ConfigError(config.source, "", "it names no application. Give --legacy, --modern, or both.")
    token = None if config.admin == "off" else token_for(config.admin, os.environ)
    adopter = Adopter(reactor, opens=owns_loop and not config.listen, reuse_port=config.reuse_port)
    reactor.on_listen = cast("OnListen", adopter)
    legacy = modern = view = None
    if config.legacy is not None:
        if config.legacy.session is not None:
            view = load_session_view(config.legacy.session, config.legacy.base)
        with _named(config, "legacy"), reactor.loading():
            legacy = load_legacy(config.legacy.app, config.legacy.settings or None, config.legacy.base)
    _check_site(config, legacy)
    # On the worst night modern may be what is broken: it isn't even imported then.
    if config.modern is not None and not config.force_legacy:
        with _named(config, "modern"):
            modern = load_modern(config.modern.app, config.modern.settings or None, config.modern.base)
    # After the applications: now their code is importable, and so has an identity.
    state, snapshot, since, books = _state(config)
    table = config.table(snapshot.routes, snapshot.version)
    if config.legacy is None:
        _check_without_legacy(config, table)
    stages = Stages(config, Cell(table), snapshot, since, time.time)
    if owns_loop:
        into_twisted()
    else:
        into_logging()
    return Server(
        config,
        reactor,
        stages,
        legacy,
        modern,
        adopter,
        state,
        books,
        owns_loop,
        token,
        _policy_file(config),
        BUILT,
        {} if state is None or config.force_legacy else sandboxes(config, reactor),
        view,
        None if state is None else _key(config),
    )


@contextmanager
def _named(config: Config, side: str) -> Iterator[None]:
    """
    Where the file named the application, a refusal names its key and not an option.
    """
    try:
        yield
    except LoadError as error:
        if side in config.options:
            raise
        key = f"{config.source}: {side}.app"
        raise LoadError(key, error.text, error.problem, error.remedy) from error


def _check_site(config: Config, legacy: LoadedLegacy | None) -> None:
    """
    A Site is chosen among those that listen by themselves.
    """
    if config.site is not None and (legacy is None or legacy.service is None):
        found = "there is no legacy application" if legacy is None else "legacy listens nowhere by itself"
        raise ConfigError(
            *(("options", "--site") if "site" in config.options else (config.source, "site")),
            f"{config.site!r} names no Site: {found}. Leave it out; `listen` says where it is served.",
        )


def _key(config: Config) -> bytes | None:
    """
    The key of the secrets' tokens; None for one of this process's own.
    """
    try:
        return redaction_key(config.state, config.base)
    except StateError:
        if not config.force_legacy:
            raise
        return None


def _policy_file(config: Config) -> Path | None:
    """
    Where the policy can be read again; the shipped example and options alone can't be.
    """
    path = config.base / Path(config.source).name
    return path if path.is_file() else None


def _state(config: Config) -> tuple[StateThread | None, Snapshot, dict[str, float], dict[str, Book]]:
    """
    The state, opened once to see that it can be, and what is read of it before the start.
    """

    def again() -> Store:
        return Store.open(config.state, create=False)

    try:
        store = Store.open(config.state)
    except StateUnavailableError:
        if not config.force_legacy:
            raise
        # The switch for the worst night must work without the database.
        return None, Snapshot(-1, {}, {}), {}, {}
    try:
        snapshot = store.snapshot()
        since = {name: store.audit(name, ROUTE, limit=1)[0].at for name in snapshot.routes}
        books = books_of(config, store, time.time())
        born = store.database.born()
    finally:
        store.close()  # twistd may fork before this process serves
    return StateThread(again, lambda changed: None, born=born), snapshot, since, books


def _check_without_legacy(config: Config, table: RouteTable) -> None:
    for route in (*table.routes, table.default):
        if route.stage not in (Stage.MODERN, Stage.RETIRED):
            raise ConfigError(
                config.source,
                "legacy.app",
                f"it is missing, and {route.name!r} is at {route.stage.value}. Name the legacy application, "
                "or put every route, and [routes], at modern or retired.",
            )
