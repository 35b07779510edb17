"""
Who answers a request: pure tables, no I/O, no clock, no dice of their own.

- L{stage}: sides, stages, effects, what a canary sticks to.
- L{pattern}: what a match text means.
- L{route}: a route, and every decision it can come to.
- L{table}: the look-up, and the cell it is swapped in.
"""

from bridge.routing.pattern import Pattern
from bridge.routing.route import Asks, Decision, Route, canary_place
from bridge.routing.stage import (
    BY_CLIENT,
    Effects,
    Selector,
    SelectorKind,
    Side,
    Stage,
)
from bridge.routing.table import Cell, RouteTable, resolve

__all__ = [
    "BY_CLIENT",
    "Asks",
    "Cell",
    "Decision",
    "Effects",
    "Pattern",
    "Route",
    "RouteTable",
    "Selector",
    "SelectorKind",
    "Side",
    "Stage",
    "canary_place",
    "resolve",
]
