"""
A raw client sees a native Site, or a difference that docs/wire.md declares.

The seeds are fixed, so that a failure can be had again: the pieces that were sent are in the message.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.routing import Stage
from tests.web.served import on_loop, serving
from tests.web.wire import CASES, both, say, tree

REFUSED = b"HTTP/1.1 400 Bad Request\r\n\r\n"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "wire.md"

# Twisted's own error pages warn of themselves; natively the answer would then be another one.
pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")

# On the hot road, by what the client sent: everything else must be the same bytes.
HOT: dict[str, Callable[[bytes, bytes, bytes], bool]] = {
    "empty-lines": lambda sent, native, ours: (
        re.search(rb"\A(\r?\n)?(\n|\r[^\n]|\r\n)|\n\r?\n([\r\n]|[^\r\n:]*(\r?\n\r?\n|\r)[A-Za-z])", sent) is not None
    ),
    "spaces": lambda sent, native, ours: re.search(rb"[^\r\n:] {2,}[^\r\n]* ?HTTP/|^ +[A-Z]", sent, re.M) is not None,
    "chunk-lines": lambda sent, native, ours: b"chunked" in sent.lower() and ours.endswith(REFUSED),
    "identity": lambda sent, native, ours: b"identity" in sent.lower() and ours.endswith(REFUSED),
    "connections": lambda sent, native, ours: len(re.findall(rb"(?i)\nconnection:", sent)) > 1,
    "behind-chunks": lambda sent, native, ours: b"chunked" in sent.lower() and ours.endswith(REFUSED),
    "late-refusal": lambda sent, native, ours: native.removesuffix(REFUSED) == ours.removesuffix(REFUSED),
}
# Behind ASGI, by case: those that differ after names, order and the server's own headers are put aside.
ASGI = {
    "absolute": {"absolute"},
    "fragment": {"fragment"},
    "http-1.0": {"1.0 chunks"},
    "status": {"799"},
    "continue": {"expect on 1.0"},
    "parser": {
        "connect",
        "unknown method",
        "lower-case method",
        "identity",
        "huge length",
        "control in value",
        "folded",
        "bare lf",
        "path without slash",
        "tls hello",
    },
    "limits": {"too long path", "too long header"},
    "empty-lines": {"two empty lines first"},
    "spaces": {"two spaces"},
}


def declared(title: str) -> set[str]:
    """
    The differences that one table of the document names.
    """
    section = DOCUMENT.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.M))


def test_every_difference_is_declared() -> None:
    """
    The document's tables and what these tests let pass are the same lists.
    """
    silent = {"header-case", "header-order", "reason", "close", "bare-400"}

    assert declared("Legacy answers on the hot road") == {*HOT, "http2"}
    assert declared("Legacy answers behind ASGI") | set(HOT) == {*ASGI, *silent, *HOT}


@pytest.mark.parametrize("stage", [Stage.LEGACY, Stage.SHADOW])
@on_loop
async def test_cases_are_the_same_on_the_hot_road(stage: Stage) -> None:
    """
    Every case gives the same bytes, but for those that are declared, whether it is shadowed
    or not. Before Twisted's own parser had the last word, 16 of them differed; while a route
    with a shadow went behind ASGI, its wire changed with its stage.
    """
    differing = set()
    async with both(stage) as (native, served, judge):
        for name, data in CASES.items():
            if name == "failure":
                continue
            if await say(native, [data]) != await say(served.port, [data]):
                differing.add(name)

    assert {"two empty lines first", "two spaces"} == differing
    assert (stage is Stage.SHADOW) == (judge.trials > 0)


def normal(said: bytes) -> list[object]:
    """
    An answer without what every server writes in its own way.
    """
    found: list[object] = []
    for part in re.split(rb"(?=HTTP/1\.[01] \d\d\d)", said):
        head, _, body = part.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        status = lines[0].split(b" ")[1:2]
        headers = sorted(re.sub(rb"^[^:]+", lambda name: name[0].lower(), line) for line in lines[1:])
        own = (b"date:", b"connection: close")
        kept = [line for line in headers if not line.startswith(own)]
        if status == [b"400"]:
            kept = [line for line in kept if line != b"content-length: 0"]
        found.append((status, kept, body))
    return found


@on_loop
async def test_cases_behind_asgi() -> None:
    """
    Behind ASGI exactly the declared cases differ; none of them more, and none less.
    """
    differing = set()
    async with both() as (native, _, _), serving(tree(), hot=False) as served:
        for name, data in CASES.items():
            if name == "failure":
                continue
            if normal(await say(native, [data])) != normal(await say(served.port, [data])):
                differing.add(name)

    assert set().union(*ASGI.values()) == differing


def mutated(dice: random.Random) -> list[bytes]:
    """
    A few cases, damaged, and cut into packets.
    """
    names = [name for name in CASES if name != "failure"]
    inserts = [b"\r\n", b"\n", b"\r", b" ", b":", b"\t", b"\0", b"Connection: close\r\n"]
    inserts += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n"]
    data = CASES[dice.choice(names)]
    for _ in range(dice.choice([0, 0, 1, 1, 1, 2, 3])):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.randrange(1, 20))
        data = dice.choice(
            [
                data[:at] + bytes([dice.randrange(256)]) + data[at:],
                data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :],
                data[:at] + data[end:],
                data[:end] + data[at:],
                data + CASES[dice.choice(names)],
                data[:at] + dice.choice(inserts) + data[at:],
                CASES[dice.choice(names)][:at] + data,
            ]
        )
    if dice.random() < 0.5:
        return [data]
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 5)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


async def differences(seed: int, count: int, stage: Stage) -> list[tuple[list[bytes], bytes, bytes]]:
    """
    What isn't declared among so many mutations.
    """
    dice = random.Random(seed)
    found = []
    async with both(stage) as (native, served, _):
        for _ in range(count):
            pieces = mutated(dice)
            theirs, ours = await say(native, pieces), await say(served.port, pieces)
            if theirs == ours:
                continue
            sent = b"".join(pieces)
            if not any(excused(sent, theirs, ours) for excused in HOT.values()):
                found.append((pieces, theirs, ours))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("stage", [Stage.LEGACY, Stage.SHADOW])
@on_loop
async def test_mutations_are_the_same(seed: int, stage: Stage) -> None:
    """
    Damaged requests in odd packets get the same bytes as natively, or a declared difference.
    """
    assert [] == await differences(seed, 250, stage)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 140))
@on_loop
async def test_many_mutations_are_the_same(seed: int) -> None:
    """
    The same, forty times a thousand, half of them shadowed.
    """
    assert [] == await differences(seed, 1000, [Stage.LEGACY, Stage.SHADOW][seed % 2])
