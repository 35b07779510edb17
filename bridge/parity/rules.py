"""
Owns what a comparison may leave out, and what a person agreed to: C{ignore} and
C{tolerate} of the policy, and accepted proposals with an owner and an expiry.

A rule names a path as a difference writes it, and covers what lies below it:
C{header:etag}, C{header:set-cookie[sid]}, C{$.a.b}, C{$.rows[*].at}, C{$.*.at},
C{effect:row:tasks.created_at}, C{status}, C{latency}.

Refuses: to learn.  What A/A shows is proposed elsewhere, and counts from the moment
that somebody puts it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

DEFAULT_HEADERS = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "server",
        "transfer-encoding",
        "x-request-id",
    }
)

_TOKEN = re.compile(r"\[\*\]|\*\*|\*|[^*\[]+|\[")


def _glob(text: str) -> str:
    parts = []
    for token in _TOKEN.findall(text):
        if token == "[*]":
            parts.append(r"\[[^\]]*\]")
        elif token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append(r"[^.\[\]]+")
        else:
            parts.append(re.escape(token))
    return "".join(parts)


def pattern_of(rule: str) -> re.Pattern[str]:
    """
    What a rule covers: the path itself and everything below it.
    """
    text = rule.lower() if rule.startswith("header:") else rule
    return re.compile(_glob(text) + r"(?:[.\[].*)?\Z")


@attrs.frozen
class Agreed:
    """
    A proposed rule that somebody accepted.

    @ivar expires: Wall-clock seconds after which it no longer counts.
    """

    rule: str
    owner: str
    expires: float


@attrs.frozen
class Rules:
    """
    What counts as the same on one route.

    @ivar tolerate: How far numbers may lie apart; for C{latency}, how many times
        as long modern may take.
    @ivar strict: Whether bodies must be identical to the byte.
    @ivar moments: Seconds that two ISO 8601 times may lie apart, where two runs
        can't have happened at once (sandboxes); 0 compares them as texts.
    """

    ignore: tuple[str, ...] = ()
    tolerate: Mapping[str, float] = attrs.field(factory=dict)
    strict: bool = False
    moments: float = 0.0
    _ignored: tuple[re.Pattern[str], ...] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda self: tuple(pattern_of(rule) for rule in self.ignore), takes_self=True),
    )
    _tolerated: tuple[tuple[re.Pattern[str], float], ...] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(
            lambda self: tuple((pattern_of(r), far) for r, far in self.tolerate.items()),
            takes_self=True,
        ),
    )

    def ignores(self, path: str) -> bool:
        """
        Whether nothing at that path counts.
        """
        return any(pattern.match(path) for pattern in self._ignored)

    def tolerance(self, path: str) -> float:
        """
        How far two numbers at that path may lie apart.
        """
        return max((far for pattern, far in self._tolerated if pattern.match(path)), default=0.0)

    @property
    def slower(self) -> float:
        """
        How many times as long modern may take.
        """
        return self.tolerate.get("latency", 1.5)

    def agreed(self, rules: Iterable[Agreed], now: float) -> Rules:
        """
        These rules, and those of the accepted ones that haven't expired.
        """
        more = tuple(each.rule for each in rules if each.expires > now)
        return attrs.evolve(self, ignore=self.ignore + more) if more else self


RULES = Rules()
