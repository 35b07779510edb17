"""
Owns what a copied store is, and how the policy declares one: the key C{copies} in
C{[legacy.sandbox]} and C{[modern.sandbox]}, beside the settings of the instance.

::

    [modern.sandbox]
    data = "sandbox/modern"
    copies = [
        { sqlite = "data/jobs.db", to = "sandbox/modern/jobs.db" },
        { folder = "data", to = "sandbox/modern", except = ["jobs.db*", "outbox/*"] },
        { mail = "data/outbox", to = "sandbox/modern/outbox" },
        { postgresql = "postgresql:///jobs", to = "postgresql:///jobs_sandbox", template = "jobs_empty" },
    ]

Refuses: a copy that lies where its original does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bridge.errors import BridgeError
from bridge.parity.observe import Effect

Names = Callable[[], Mapping[str, str]]


class Copy(Protocol):
    """
    One store and its copy.  Every call runs on a thread of the feed's own, one at a
    time.

    @ivar cheap: Whether looking for changes costs the same however much there is.
    """

    cheap: bool

    def seed(self, like: Copy | None) -> None:
        """
        Make the copy anew: from the store, or from another's copy just made, so that
        two sandboxes begin alike.
        """

    def changes(self, names: Names = dict) -> list[Effect]:
        """
        What was done to the copy since it was last asked.

        @param names: Gives the instance's own ids, and what the real side calls the
            same, as far as answers have shown it.
        """

    def leaked(self, ids: Sequence[str]) -> str:
        """
        Where one of these ids, which the sandbox alone can know, stands in the real
        store; empty if nowhere.
        """

    def close(self) -> None:
        """
        Let go of files and connections.
        """


class SandboxError(BridgeError):
    """
    A sandbox that can't be made as it is declared.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem


def copies_of(sandbox: Mapping[str, Any], base: Path, source: str) -> tuple[dict[str, Any], list[Copy]]:
    """
    The settings of a second instance, and the stores that are copied for it.

    @param source: The table's name in messages.
    @raise SandboxError: If a copy can't be read.
    """
    from bridge.dispatch.sandbox.folders import FolderCopy
    from bridge.dispatch.sandbox.postgresql import PostgreSQLCopy
    from bridge.dispatch.sandbox.sqlite import SQLiteCopy

    settings = dict(sandbox)
    made: list[Copy] = []
    for place, given in enumerate(settings.pop("copies", ())):
        where = f"{source}.copies[{place}]"
        if not isinstance(given, Mapping):
            raise SandboxError(where, 'it must be a table like { sqlite = "…", to = "…" }')
        kinds = [kind for kind in ("sqlite", "folder", "mail", "postgresql") if kind in given]
        more = set(given) - {*kinds, "to", *(key for kind in kinds for key in _MORE[kind])}
        if len(kinds) != 1 or "to" not in given or more or ("template" in given) != (kinds == ["postgresql"]):
            raise SandboxError(
                where,
                "it needs one of sqlite, folder, mail or postgresql, and `to`; postgresql needs `template` too, "
                "and folder and mail may have `except`",
            )
        kind, store, to = kinds[0], str(given[kinds[0]]), str(given["to"])
        if kind == "postgresql":
            if store == to:
                raise SandboxError(where, "the copy is the store itself")
            made.append(PostgreSQLCopy(store, to, str(given["template"])))
            continue
        original, copied = (base / store).resolve(), (base / to).resolve()
        if copied == original or original in copied.parents or copied in original.parents:
            raise SandboxError(where, "the copy must lie neither at, in nor above the store itself")
        if kind == "sqlite":
            made.append(SQLiteCopy(original, copied))
        else:
            apart = tuple(map(str, given.get("except", ())))
            made.append(FolderCopy(original, copied, "mail" if kind == "mail" else "file", apart))
    return settings, made


_MORE = {"sqlite": (), "folder": ("except",), "mail": ("except",), "postgresql": ("template",)}
