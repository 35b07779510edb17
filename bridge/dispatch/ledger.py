"""
Owns what this process has observed and not yet stored: counts, fingerprints, samples
and proposals, in batches that a slow or absent database may hand back.

Refuses: to wait for a database, and to grow without end.  Counts are small and are
kept; of samples the newest are, and what was lost is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import attrs

from bridge.parity import Difference, Proposal


@attrs.frozen(cache_hash=True)
class Key:
    """
    Whose evidence: a route's, under one identity of both sides' code.
    """

    route: str
    identity: str


@attrs.frozen
class Totals:
    """
    What the state holds for a key, of all processes.

    @ivar first_at: Wall-clock seconds of the first; None before there is any.
    """

    counts: Mapping[str, int] = attrs.field(factory=dict)
    first_at: float | None = None


@attrs.frozen
class Batch:
    """
    What one write takes along.  What is stored is taken out of it, so that what
    comes back after an error is only what wasn't.

    @ivar keys: Whose totals are to be read back.
    @ivar found: By key and fingerprint: class, place and how often.
    """

    keys: tuple[Key, ...]
    counts: dict[Key, Counter[str]]
    found: dict[Key, dict[str, tuple[str, str, int]]]
    samples: list[tuple[Key, str, str]]
    proposals: list[tuple[str, Proposal]]

    def __bool__(self) -> bool:
        """
        Whether there is anything to store or to read back.
        """
        return bool(self.keys or self.found or self.samples or self.proposals)


class EvidenceStore(Protocol):
    """
    What L{store_batch} needs of the state.
    """

    def add_counts(self, route: str, identity: str, deltas: Mapping[str, int], at: float) -> Any:
        """
        Add to the counters.
        """

    def counts(self, route: str, identity: str) -> Mapping[str, int]:
        """
        The counters' sums.
        """

    def first_at(self, route: str, identity: str) -> float | None:
        """
        When the first was added.
        """

    def add_fingerprints(self, route: str, identity: str, rows: Iterable[tuple[str, str, str, int]], at: float) -> Any:
        """
        Add to the fingerprints' counters.
        """

    def add_sample(self, route: str, identity: str, fingerprint: str, text: str, at: float) -> Any:
        """
        Keep a sample, if there is room.
        """

    def propose(self, route: str, rule: str, owner: str, expires: float, share: float, pairs: int) -> Any:
        """
        Put a proposal down, or its newer figures.
        """


class EvidenceSink(Protocol):
    """
    The road to the state.
    """

    async def write(self, batch: Batch) -> Mapping[Key, Totals]:
        """
        Store a batch, and read the totals of its keys; whatever it raises, the batch
        is kept and offered again.
        """


def store_batch(store: EvidenceStore, batch: Batch, at: float) -> dict[Key, Totals]:
    """
    Write a batch into a state, and read the totals; on the state's thread.

    @param at: Wall-clock seconds.
    """
    for key in list(batch.counts):
        store.add_counts(key.route, key.identity, batch.counts[key], at)
        del batch.counts[key]
    for key in list(batch.found):
        rows = [(name, kind, place, count) for name, (kind, place, count) in batch.found[key].items()]
        store.add_fingerprints(key.route, key.identity, rows, at)
        del batch.found[key]
    while batch.samples:
        key, fingerprint, text = batch.samples[0]
        store.add_sample(key.route, key.identity, fingerprint, text, at)
        del batch.samples[0]
    while batch.proposals:
        route, p = batch.proposals[0]
        store.propose(route, p.rule, p.owner, p.expires, p.share, p.pairs)
        del batch.proposals[0]
    return {
        key: Totals(store.counts(key.route, key.identity), store.first_at(key.route, key.identity))
        for key in batch.keys
    }


@attrs.define(eq=False)
class Ledger:
    """
    This process's part of the evidence.

    @ivar most: Samples that wait at most.
    @ivar lost: Samples that found no room.
    @ivar here: What this process has counted since its start, by route, whatever the code and the stage.
    """

    most: int = 64
    lost: int = 0
    here: dict[str, Counter[str]] = attrs.field(factory=dict)
    _stored: dict[Key, Totals] = attrs.field(factory=dict)
    _ended: Counter[Key] = attrs.field(factory=Counter)
    _counts: dict[Key, Counter[str]] = attrs.field(factory=dict)
    _on_the_way: dict[Key, Counter[str]] = attrs.field(factory=dict)
    _found: dict[Key, dict[str, tuple[str, str, int]]] = attrs.field(factory=dict)
    _samples: list[tuple[Key, str, str]] = attrs.field(factory=list)
    _proposals: dict[tuple[str, str], tuple[str, Proposal]] = attrs.field(factory=dict)

    def add(self, key: Key, counts: Mapping[str, int]) -> None:
        """
        Count.
        """
        # Each request that is watched comes here, and a Counter's own methods are slow.
        kept = self._kept(key)
        here = self.here.get(key.route)
        if here is None:
            here = self.here[key.route] = Counter()
        for name, count in counts.items():
            kept[name] = kept.get(name, 0) + count
            # What belongs to no stage is a mark, and counts nothing.
            _, of_a_stage, what = name.partition(".")
            if of_a_stage:
                here[what] = here.get(what, 0) + count

    def _kept(self, key: Key) -> Counter[str]:
        kept = self._counts.get(key)
        if kept is None:
            kept = self._counts[key] = Counter()
        return kept

    def differs(self, key: Key, difference: Difference, place: str) -> int:
        """
        Count a difference; how often this process has seen it since the last batch.

        @param place: Where it is, as it may be stored.
        """
        found = self._found.setdefault(key, {})
        name = difference.fingerprint
        count = found[name][2] + 1 if name in found else 1
        found[name] = (difference.kind.value, place, count)
        return count

    def keep(self, key: Key, fingerprint: str, text: str) -> None:
        """
        Keep a sample until it can be stored.
        """
        self._samples.append((key, fingerprint, text))
        if len(self._samples) > self.most:
            del self._samples[0]
            self.lost += 1

    def propose(self, route: str, proposal: Proposal) -> None:
        """
        Put a proposal down; a newer one replaces it.
        """
        self._proposals[route, proposal.rule] = (route, proposal)

    def totals(self, key: Key) -> Totals:
        """
        What is known of a key: the state's sums at the last batch, and what this
        process has counted since.
        """
        stored = self._stored.get(key, Totals())
        counts = Counter(dict(stored.counts))
        for more in (self._on_the_way, self._counts):
            counts.update(more.get(key, {}))
        return attrs.evolve(stored, counts=counts)

    def take(self, keys: Iterable[Key]) -> Batch:
        """
        What is to be stored now; it counts as on its way until L{stored} or
        L{give_back}.
        """
        batch = Batch(
            tuple(dict.fromkeys([*keys, *self._counts])),
            self._counts,
            self._found,
            self._samples,
            list(self._proposals.values()),
        )
        self._on_the_way = self._counts
        self._counts, self._found, self._samples, self._proposals = {}, {}, [], {}
        return batch

    def stored(self, totals: Mapping[Key, Totals]) -> None:
        """
        The batch is in the state, and these are its sums.
        """
        self._on_the_way = {}
        for key, now in totals.items():
            before = self._stored.get(key, now).first_at
            if before is not None and (now.first_at is None or now.first_at > before):
                self._ended[key] += 1  # counters never lose their first row otherwise
        self._stored.update(totals)

    def ended(self, key: Key) -> int:
        """
        How often the evidence of a key was seen to begin anew.
        """
        return self._ended[key]

    def give_back(self, batch: Batch) -> None:
        """
        The batch could not be stored.
        """
        self._on_the_way = {}
        for key, counts in batch.counts.items():
            self._kept(key).update(counts)
        for key, found in batch.found.items():
            now = self._found.setdefault(key, {})
            for name, (kind, place, count) in found.items():
                more = now[name][2] if name in now else 0
                now[name] = (kind, place, count + more)
        self._samples[:0] = batch.samples
        over = len(self._samples) - self.most
        if over > 0:
            del self._samples[:over]
            self.lost += over
        for route, proposal in batch.proposals:
            self._proposals.setdefault((route, proposal.rule), (route, proposal))
