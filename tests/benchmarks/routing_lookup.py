"""
What a look-up costs: microseconds for a literal, a parameter, a miss and a canary, with 10, 1,000 and 10,000 routes,
and milliseconds for building the table at the start and for moving one route, which is what a change of stage costs.

Run it: python tests/benchmarks/routing_lookup.py [--json]

The promise is that 10,000 routes cost at most 5 % over 10. A request costs tens of microseconds, so that is judged on
the look-up's share of a request of 30 µs, the cheapest that was measured, and the look-ups alone are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import attrs

from bridge.routing import Route, RouteTable, Selector, Stage

COUNTS = (10, 1_000, 10_000)
REQUEST = 30e-6
LOOPS = 20_000
ROUNDS = 7


class Asked:
    """
    A request that has every answer ready.
    """

    def subject(self, selector: Selector) -> bytes:
        return b"client-7"

    def dice(self) -> float:
        return 0.5


def routes(count: int) -> list[Route]:
    """
    A third literals, a third with a parameter at the end, a third with one inside.
    """
    made = []
    for n in range(count):
        area = f"/area{n % 97}"
        match n % 3:
            case 0:
                made.append(Route(f"GET {area}/list{n}"))
            case 1:
                made.append(Route(f"GET {area}/item{n}/{{id}}", stage=Stage.SHADOW))
            case _:
                made.append(Route(f"GET {area}/{{id}}/part{n}", stage=Stage.CANARY, weight=5))
    return made


def paths(count: int) -> dict[str, bytes]:
    """
    One request of each kind, from the end of the table.
    """
    last = {n % 3: n for n in range(count)}
    return {
        "literal": f"/area{last[0] % 97}/list{last[0]}".encode(),
        "parameter": f"/area{last[1] % 97}/item{last[1]}/42".encode(),
        "escaped": f"/area{last[1] % 97}/item{last[1]}/a%2Fb".encode(),
        "canary": f"/area{last[2] % 97}/42/part{last[2]}".encode(),
        "miss": b"/nothing/here/at/all",
    }


def seconds(work: Callable[[], object]) -> float:
    """
    One call's own CPU time, the best of several rounds: what else runs here only ever adds.
    """
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(LOOPS):
            work()
        found.append((time.process_time() - start) / LOOPS)
    return min(found)


def measure() -> dict[str, dict[str, float]]:
    """
    Microseconds by number of routes and kind; "…_ms" in milliseconds.
    """
    asked = Asked()
    found: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        made = routes(count)
        builds = []
        for _ in range(5):
            start = time.process_time()
            table = RouteTable.build(made)
            builds.append(time.process_time() - start)
        moves = []
        for n in range(20):
            start = time.process_time()
            table = table.moved([attrs.evolve(made[n % count], stage=Stage.LEGACY)], n)
            moves.append(time.process_time() - start)
        table = RouteTable.build(made)
        row = {"build_ms": statistics.median(builds) * 1e3, "move_ms": statistics.median(moves) * 1e3}
        for name, path in paths(count).items():
            decision = table.decide(b"GET", path, asked)
            assert (decision.route.name == "default") is (name == "miss"), (name, decision)
            row[name] = seconds(lambda path=path, table=table: table.decide(b"GET", path, asked)) * 1e6  # type: ignore[misc]
        found[str(count)] = row
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    given = parser.parse_args()
    found = measure()
    few, many = found[str(COUNTS[0])], found[str(COUNTS[-1])]
    extra = max(many[name] - few[name] for name in few if not name.endswith("_ms"))
    share = extra * 1e-6 / REQUEST
    if given.json:
        print(json.dumps({"figures": found, "extra_share": share}))
    else:
        names = list(few)
        print("routes  " + "".join(f"{name:>11}" for name in names))
        for count, row in found.items():
            print(f"{count:>6}  " + "".join(f"{row[name]:>11.2f}" for name in names))
        print(f"\n10,000 routes cost {share:.1%} of a request over 10 (promise: at most 5 %)")
    return 0 if share <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
