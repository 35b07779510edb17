"""
Owns the judgement of what was observed: a verdict for each trial, counts and samples
into the ledger, and the way back at once where it can't wait.

Refuses: to promote, which is the keeper's, and to store anything unredacted.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from bridge.dispatch.books import Book
from bridge.dispatch.ledger import Key, Ledger
from bridge.dispatch.trial import Dropped, Trial
from bridge.parity import Action, Gate, Judged, Noise, Redactor, Ruling, Tally, Verdict, judge
from bridge.parity import tally as t
from bridge.parity.sample import Asked, sample_of
from bridge.parity.tally import counts_of
from bridge.parity.verdict import Discord
from bridge.routing import Decision, Effects, Route, Side, Stage

log = logging.getLogger(__name__)


class Breaker(Protocol):
    """
    The way back, at once.
    """

    def demote(self, route: str, stage: Stage, why: str) -> None:
        """
        Put a route that stands at C{stage} back to legacy in this process now, and in
        the state as soon as it can be; must not wait.
        """


@attrs.define(eq=False)
class Examiner:
    """
    The judge of the shadow queue.  Runs on the loop's thread.

    @ivar books: By route; one that isn't there is not judged.
    @ivar wall: Wall-clock seconds.
    @ivar owner: Who owns the rules that are proposed.
    """

    books: Mapping[str, Book]
    ledger: Ledger
    gate: Gate
    redactor: Redactor
    breaker: Breaker
    wall: Callable[[], float]
    owner: str = "gate"
    _walks: dict[tuple[Key, Stage, int], float] = attrs.field(factory=dict)
    _noise: dict[Key, Noise] = attrs.field(factory=dict)
    _breaches: dict[Key, str] = attrs.field(factory=dict)
    _seen: dict[tuple[Key, str], int] = attrs.field(factory=dict)

    def judge(self, trial: Trial) -> None:
        """
        Judge one request.
        """
        route = trial.decision.route
        book = self.books.get(route.name)
        if book is None:
            return
        judged = _judged(trial, book)
        key = Key(route.name, book.identity)
        self.ledger.add(key, counts_of(judged, route.stage.value))
        self._remember(key, book, trial, judged)
        if judged.discord is not Discord.NONE:
            before = self.walk(key, route.stage)
            against = judged.discord is Discord.AGAINST
            self._walks[key, route.stage, self.ledger.ended(key)] = self.gate.split.after(before, against)
        self._weigh(key, route)

    def doubts(self, trial: Trial) -> bool:
        """
        Whether the two sides differ where the answering side agrees with itself.
        """
        book = self.books.get(trial.decision.route.name)
        return book is not None and _judged(trial, book).verdict is Verdict.DIFFERENT

    def dropped(self, decision: Decision, why: Dropped) -> None:
        """
        Count a request that went by unobserved.
        """
        self._count(decision, f"dropped:{why.value}")

    def answered(self, decision: Decision, status: int, seconds: float) -> None:
        """
        Count the answer of a canary that nothing may shadow.
        """
        modern = decision.answers is Side.MODERN
        names = [t.ANSWERS if modern else t.BASE_ANSWERS]
        if status >= 500 or not status:
            names.append(t.ERRORS if modern else t.BASE_ERRORS)
        self._count(decision, *names)
        book = self.books.get(decision.route.name)
        if book is not None:
            self._weigh(Key(book.route, book.identity), decision.route)

    def broke(self, route: Route, guarantee: str) -> None:
        """
        A guarantee is broken: the route goes back now, and holds.
        """
        book = self.books.get(route.name)
        if book is None:
            return
        key = Key(route.name, book.identity)
        self._breaches.setdefault(key, guarantee)
        log.error("%s: a guarantee is broken: %s", route.name, guarantee)
        self._weigh(key, route)

    def breach(self, key: Key) -> str:
        """
        What guarantee was broken under that key; empty if none.
        """
        return self._breaches.get(key, "")

    def walk(self, key: Key, stage: Stage) -> float:
        """
        The evidence of the test that takes back; it ends with the counts that it belongs to.
        """
        return self._walks.get((key, stage, self.ledger.ended(key)), 0.0)

    def _count(self, decision: Decision, *names: str) -> None:
        route = decision.route
        book = self.books.get(route.name)
        if book is not None:
            self.ledger.add(Key(route.name, book.identity), _once(route.stage, names))

    def _weigh(self, key: Key, route: Route) -> None:
        """
        Ask the gate about the way back alone: it doesn't wait for a turn.
        """
        if route.stage not in (Stage.CANARY, Stage.LIVE):
            return
        ruling = self.rule(route.stage, self.books[route.name], 0.0)
        if ruling.action is Action.DEMOTE:
            self.ledger.add(key, {t.REJECTED: 1})
            self._walks.pop((key, route.stage, self.ledger.ended(key)), None)
            self.breaker.demote(route.name, route.stage, ruling.why)

    def rule(self, stage: Stage, book: Book, seconds: float, former: bool = False) -> Ruling:
        """
        What the gate says of a route at a stage that has lasted C{seconds}.

        @param former: Whether there is evidence of other code.
        """
        key = Key(book.route, book.identity)
        totals = self.ledger.totals(key)
        if totals.first_at is not None:
            # It may have begun anew while the route stayed where it is.
            seconds = min(seconds, max(0.0, self.wall() - totals.first_at))
        return self.gate.rule(
            stage,
            Tally(totals.counts, stage.value, seconds, former),
            book.effects,
            book.outcomes,
            book.auto,
            self.walk(key, stage),
            self.breach(key),
        )

    def _remember(self, key: Key, book: Book, trial: Trial, judged: Judged) -> None:
        if judged.noise is not None:
            noise = self._noise.setdefault(key, Noise())
            noise.saw(judged.noise)
            if judged.noise and noise.pairs % 50 == 0:
                for proposal in noise.proposals(self.owner, self.wall(), self.gate.config.aa):
                    # A rule that can't be written down can't be agreed on either.
                    if self.redactor.text(proposal.rule) == proposal.rule:
                        self.ledger.propose(book.route, proposal)
        if judged.verdict is not Verdict.DIFFERENT:
            return
        text = ""
        for difference in {d.fingerprint: d for d in judged.differences}.values():
            self.ledger.differs(key, difference, self.redactor.text(difference.place))
            name = difference.fingerprint
            times = self._seen[key, name] = self._seen.get((key, name), 0) + 1
            # The first few, and then ever fewer: a difference of every request must
            # not write every request down.
            if times <= 3 or times & (times - 1) == 0:
                text = text or self._sample(book, trial, judged)
                self.ledger.keep(key, name, text)

    def _sample(self, book: Book, trial: Trial, judged: Judged) -> str:
        decision, scope = trial.decision, trial.request.scope
        modern_answered = decision.answers is Side.MODERN
        legacy, modern = trial.answer, trial.other
        if modern_answered:
            legacy, modern = modern, legacy
        raw = scope.get("raw_path") or scope["path"].encode()
        pattern = decision.route.pattern
        secrets: list[bytes] = []
        if pattern is not None:
            secrets = [pattern.value(raw.partition(b"?")[0], name) for name in book.secrets]
        asked = Asked(
            scope["method"],
            raw.partition(b"?")[0],
            scope.get("query_string", b""),
            tuple(scope.get("headers", ())),
            trial.request.body,
            tuple(secrets),
        )
        return sample_of(asked, legacy, modern, decision.answers.value, judged.differences, self.redactor)


@functools.lru_cache(256)
def _once(stage: Stage, names: tuple[str, ...]) -> Mapping[str, int]:
    """
    Each of these counted once at a stage.
    """
    return {f"{stage.value}.{name}": 1 for name in names}


def _judged(trial: Trial, book: Book) -> Judged:
    route = trial.decision.route
    return judge(
        trial.answer,
        trial.other,
        trial.replicate,
        trial.decision.answers is Side.MODERN,
        book.rules,
        route.stream,
        route.effects is Effects.SANDBOXED,
        trial.stored,
    )
