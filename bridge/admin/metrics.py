"""
Owns the text in which Prometheus reads figures, version 0.0.4 of its format.

Refuses: to count anything; a callable of C{compose} says what there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import attrs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@attrs.frozen
class Metric:
    """
    One figure, with a value for each set of labels.

    @ivar name: With its unit, like C{bgserver_loop_lag_seconds}; counters end in
        C{_total}.
    @ivar kind: "counter" or "gauge".
    """

    name: str
    kind: str
    help: str
    values: tuple[tuple[Mapping[str, str], float], ...]


def stages_metric(status: Mapping[str, object], stages: Iterable[str]) -> Metric:
    """
    Where each route of a status stands: 1 for its stage, 0 for each other one.
    """
    rows = status["routes"]
    assert isinstance(rows, list)
    names = list(stages)
    return Metric(
        "bgserver_route_stage",
        "gauge",
        "Where a route stands: 1 for its stage.",
        tuple(({"route": row["route"], "stage": name}, float(row["stage"] == name)) for row in rows for name in names),
    )


def render(metrics: Iterable[Metric]) -> str:
    """
    All of them as text.
    """
    lines = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for labels, value in metric.values:
            words = ",".join(f'{name}="{_label(text)}"' for name, text in labels.items())
            lines.append(f"{metric.name}{{{words}}} {_number(value)}" if words else f"{metric.name} {_number(value)}")
    return "\n".join(lines) + "\n" if lines else ""


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
