"""
Compares two sides, and says what follows from it: pure, no I/O, no clock, no dice.

- L{observe}: what is seen of one answer, and who writes it down.
- L{rules}, L{ids}: what counts as the same, and which ids are each other's.
- L{differences}, L{documents}, L{headers}, L{events}, L{effects}, L{compare}: all
  that two answers differ in.
- L{verdict}, L{noise}: what one request says, and what differs by itself.
- L{sequential}, L{tally}, L{gate}: what many requests say, and what follows.
- L{identity}: which code the evidence belongs to.
- L{redact}, L{sample}: what may be stored.
"""

from bridge.parity.compare import Comparison, Tier, compare
from bridge.parity.differences import Difference, Kind
from bridge.parity.gate import TAKEN_BACK, Action, Gate, Ruling
from bridge.parity.noise import Noise, Proposal
from bridge.parity.observe import Capture, Effect, Ending, Observation, Recorder, Recording
from bridge.parity.redact import Redactor
from bridge.parity.rules import Agreed, Rules
from bridge.parity.tally import Tally
from bridge.parity.verdict import Judged, Verdict, judge

__all__ = [
    "TAKEN_BACK",
    "Action",
    "Agreed",
    "Capture",
    "Comparison",
    "Difference",
    "Effect",
    "Ending",
    "Gate",
    "Judged",
    "Kind",
    "Noise",
    "Observation",
    "Proposal",
    "Recorder",
    "Recording",
    "Redactor",
    "Rules",
    "Ruling",
    "Tally",
    "Tier",
    "Verdict",
    "compare",
    "judge",
]
