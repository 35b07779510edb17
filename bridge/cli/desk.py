"""
Owns whom bgctl asks: a running server by its admin listener, or the state database.

Refuses: to mix them.  One command asks one of the two, and says which if it isn't
the one that was to be expected.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import attrs

from bridge.config import BUILT, Config
from bridge.errors import BridgeError, ConfigError, StateUnavailableError
from bridge.policy import FORCE_LEGACY, POLICY, find_policy
from bridge.routing import Stage
from bridge.state.database import shown_url
from bridge.state.desk import Desk
from bridge.state.store import Store

TOKEN = "BGSERVER_ADMIN_TOKEN"
"""
The environment variable with the token that an admin listener beyond loopback wants.
"""


class ServerRefusedError(BridgeError):
    """
    The server answered with a refusal.

    @ivar kind: Its word for it, like C{refused} or C{unknown}.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ServerUnreachableError(BridgeError):
    """
    Nobody answers at the admin listener's address.
    """

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"No bgserver answers at {url}: {cause}. Start it, or leave --admin out to work on the state database."
        )
        self.cause = cause


class Answers(Protocol):
    """
    What bgctl can ask, of either.
    """

    def status(self) -> dict[str, Any]: ...
    def route(self, name: str) -> dict[str, Any]: ...
    def loop(self, name: str) -> dict[str, Any]: ...
    def audit(self, name: str | None, limit: int) -> list[dict[str, Any]]: ...
    def differences(self, name: str, limit: int) -> dict[str, Any]: ...
    def report(self, limit: int) -> dict[str, Any]: ...
    def move(self, name: str, stage: Stage, weight: float | None, force: bool, why: str) -> dict[str, Any]: ...
    def rollback(self, name: str | None, why: str) -> dict[str, Any]: ...
    def answer(self, name: str, rule: str, status: str) -> dict[str, Any]: ...
    def hand_off(self, loop: str, stage: str, why: str) -> dict[str, Any]: ...


@attrs.frozen
class LocalDesk:
    """
    The state database itself.  It is made only where something is written.
    """

    config: Config

    def _look(self) -> Desk:
        try:
            store = Store.open(self.config.state, create=False)
        except StateUnavailableError:
            if no_state_yet(self.config):
                return Desk(self.config, None)
            raise
        return Desk(self.config, store)

    def _touch(self) -> Desk:
        # A state that was named is meant to be there: a slip of the pen makes no new one.
        return Desk(self.config, Store.open(self.config.state, create="state" not in self.config.options))

    def _told(self, found: dict[str, Any]) -> dict[str, Any]:
        """
        Whoever shows it must not take what file and environment say here for what runs.
        """
        by_environment = "force_legacy" in self.config.options
        found["asked"] = "state"
        if self.config.force_legacy:
            found["forced_by"] = FORCE_LEGACY if by_environment else self.config.source
        return found

    def status(self) -> dict[str, Any]:
        return self._told(self._look().status())

    def route(self, name: str) -> dict[str, Any]:
        return self._told(self._look().route(name))

    def loop(self, name: str) -> dict[str, Any]:
        return self._look().loop(name)

    def audit(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        return self._look().audit(name, limit)

    def differences(self, name: str, limit: int) -> dict[str, Any]:
        return self._look().differences(name, limit)

    def report(self, limit: int) -> dict[str, Any]:
        return self._told(self._look().report(limit))

    def move(self, name: str, stage: Stage, weight: float | None, force: bool, why: str) -> dict[str, Any]:
        return self._touch().move(name, stage, who=whoami(), why=why, weight=weight, force=force)

    def rollback(self, name: str | None, why: str) -> dict[str, Any]:
        return self._touch().rollback(name, who=whoami(), why=why)

    def answer(self, name: str, rule: str, status: str) -> dict[str, Any]:
        return self._touch().answer(name, rule, status, who=whoami())

    def hand_off(self, loop: str, stage: str, why: str) -> dict[str, Any]:
        return self._touch().hand_off(loop, stage, who=whoami(), why=why)


@attrs.frozen
class RemoteDesk:
    """
    A running server, by its admin API.

    @ivar url: C{http://HOST:PORT}, or C{unix:PATH}.
    @ivar timeout: Seconds for one answer.
    """

    url: str
    token: str | None = None
    timeout: float = 15.0

    def alive(self) -> None:
        """
        Whether a server answers at all; it asks no database for that.

        @raise ServerUnreachableError: If none does.
        """
        self._get("/api/alive")

    def status(self) -> dict[str, Any]:
        return self._get("/api/status")

    def route(self, name: str) -> dict[str, Any]:
        return self._get("/api/route", name=name)

    def loop(self, name: str) -> dict[str, Any]:
        return self._get("/api/loop", name=name)

    def audit(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        wanted: dict[str, Any] = {"limit": limit} if name is None else {"name": name, "limit": limit}
        found: list[dict[str, Any]] = self._get("/api/audit", **wanted)["audit"]
        return found

    def differences(self, name: str, limit: int) -> dict[str, Any]:
        return self._get("/api/differences", name=name, limit=limit)

    def report(self, limit: int) -> dict[str, Any]:
        return self._get("/api/report", limit=limit)

    def move(self, name: str, stage: Stage, weight: float | None, force: bool, why: str) -> dict[str, Any]:
        asked = {"route": name, "stage": stage.value, "weight": weight, "force": force, "why": why, "who": whoami()}
        return self._post("/api/set", asked)

    def rollback(self, name: str | None, why: str) -> dict[str, Any]:
        # An earlier server doesn't say what it left.
        return {"left": []} | self._post(
            "/api/rollback", {"route": name, "all": name is None, "why": why, "who": whoami()}
        )

    def answer(self, name: str, rule: str, status: str) -> dict[str, Any]:
        return self._post("/api/rule", {"route": name, "rule": rule, "status": status, "who": whoami()})

    def hand_off(self, loop: str, stage: str, why: str) -> dict[str, Any]:
        return self._post("/api/handoff", {"loop": loop, "stage": stage, "why": why, "who": whoami()})

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = _connection(self.url, self.timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachableError(self.url, str(error) or type(error).__name__) from None
        finally:
            connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServerUnreachableError(self.url, f"what answers there is no bgserver (status {response.status})")
        if response.status >= 400:
            raise ServerRefusedError(str(found.get("error", "refused")), str(found.get("message", found)))
        return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"), timeout)
    parts = urlsplit(url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)


def admin_url(endpoint: str) -> str:
    """
    The URL of an admin listener, from the policy's endpoint string or from a URL.

    @raise ConfigError: If it is neither.
    """
    try:
        url = _url(endpoint)
        if not url.startswith("unix:"):
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            if not usable:
                raise ValueError(url)
    except (IndexError, ValueError):
        raise ConfigError(
            "the command line",
            "--admin",
            f"{endpoint!r} is neither a URL nor an endpoint. Write http://127.0.0.1:8001, or tcp:8001.",
        ) from None
    return url


def _url(endpoint: str) -> str:
    if "://" in endpoint:
        return endpoint.rstrip("/")
    # A colon inside a value, as in an IPv6 address, is escaped.
    kind, *words = re.split(r"(?<!\\):", endpoint)
    keys = dict(word.partition("=")[::2] for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    if kind == "unix":
        return f"unix:{keys.get('address') or plain[0]}"
    host = keys.get("interface", "127.0.0.1").replace("\\", "") or "127.0.0.1"
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    scheme = "https" if kind == "ssl" else "http"
    return f"{scheme}://{host}:{keys.get('port') or plain[0]}"


def server(admin: str) -> RemoteDesk:
    """
    The server at that admin listener.

    @raise ConfigError: If that is no address.
    """
    return RemoteDesk(admin_url(admin), os.environ.get(TOKEN))


def policy(config: str | None, state: str | None, say: Callable[[str], None]) -> Config:
    """
    The policy that the server has, found as it finds it.

    @param say: Told where that is the shipped example's: a server may run by another one.
    @raise ConfigError: If it can't be used.
    """
    example = _example()
    found = find_policy(
        config=config,
        legacy=None,
        modern=None,
        cwd=Path.cwd(),
        example=example,
        environ=os.environ,
        built=BUILT,
    )
    if config is None and example is not None and found.source == example.name and not Path(POLICY).is_file():
        say(f"There is no {POLICY} here: this is the policy of the shipped example. --config names another.")
    return found.merged(base=Path.cwd(), built=BUILT, state=state)


def choose(config: Config, admin: str | None, state: str | None, say: Callable[[str], None]) -> Answers:
    """
    Whom to ask, by what was named: a server (it must answer), a database, or what
    the policy says, in which case the database stands in for a server that is down.

    @param say: Told when the database is asked, and why.
    """
    if admin is not None and admin != "off":
        return server(admin)
    why = "as asked"
    if state is None and admin is None:
        if config.admin == "off":
            # As the policy has it, so there is nothing to tell, if it is there.
            if no_state_yet(config):
                say(f"No state yet at {shown_url(config.state)}: all stands as the policy says.")
            return LocalDesk(config)
        remote = server(config.admin)
        try:
            remote.alive()
        except ServerUnreachableError as error:
            why = f"no bgserver answers at {remote.url} ({error.cause})"
        else:
            return remote
    say(f"{why[0].upper()}{why[1:]}: working on the state {shown_url(config.state)}, which servers follow.")
    return LocalDesk(config)


def whoami() -> str:
    """
    The person, for the audit log.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"  # a container may run as somebody that no file names
    return f"{user}@{socket.gethostname()}"


def no_state_yet(config: Config) -> bool:
    """
    Whether all stands as the policy says, since no server has made its state: there is
    no file, none was named, and nothing lies beside that only a server leaves.
    """
    path = config.state.removeprefix("sqlite:///")
    if path == config.state or "state" in config.options:
        return False
    return not any(Path(path + left).exists() for left in ("", "-wal", "-shm", "-journal", ".key"))


def _example() -> Path | None:
    # Found, not imported: the command stands without the plugin.
    spec = find_spec("twistd_plugin")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders))) / "example.toml" if folders else None
