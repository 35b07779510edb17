"""
What Prometheus reads of a running server: its own parser takes it, every name is documented, and no request makes one.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from bridge.background.ownership import LoopStage
from bridge.dispatch import Dropped
from tests.contract.servers import ROOT, Target, start

POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
admin = "tcp:0:interface=127.0.0.1"

[legacy]
app = "legacy_twisted.server:make_service"

[modern]
app = "modern_fastapi.app:create_app"

[[route]]
match = "GET /"
stage = "shadow"

[[route]]
match = "GET /task/{task_id}"

[[loop]]
name = "consumer"
legacy = "service:consumer"
modern = "consumer"
stage = "live"

[[loop]]
name = "cleanup"
legacy = "service:cleanup"
modern = "cleanup"
"""


class Served:
    """
    A server, and what a scrape of it says.
    """

    def __init__(self, folder: Path) -> None:
        self.server = start(Target("metrics", "legacy", "owned"), folder, {}, policy=POLICY).listening()
        found = re.search(r"Operators on (http://127\.0\.0\.1:[0-9]+)", self.server.said())
        while found is None:
            time.sleep(0.05)
            found = re.search(r"Operators on (http://127\.0\.0\.1:[0-9]+)", self.server.said())
        self.admin = found[1]

    def get(self, path: str) -> None:
        host, port = self.server.address
        try:
            urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10).read()
        except urllib.error.HTTPError as error:
            error.close()

    def scraped(self) -> dict[str, Metric]:
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        families = list(text_string_to_metric_families(text))
        assert [] == [name for name, count in Counter(each.name for each in families).items() if count > 1]
        # The parser takes a counter's name without its end.
        return {each.name + "_total" * (each.type == "counter"): each for each in families}

    def until(self, name: str, labels: dict[str, str], value: float) -> dict[str, Metric]:
        for _ in range(400):
            found = self.scraped()
            if value == value_of(found, name, **labels):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{name}{labels} never was {value}: {found[name].samples}")


def value_of(found: dict[str, Metric], name: str, **labels: str) -> float | None:
    return next((each.value for each in found[name].samples if each.labels == labels), None)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    try:
        yield made
        assert 0 == made.server.stop(), made.server.said()
    finally:
        made.server.kill()


def test_prometheus_reads_loops_and_pairs(served: Served) -> None:
    """
    Owner, epoch, stage and restarts of each loop; pairs by verdict and dropped shadows of each route that can have
    some, from zero on; and no label that a request could choose.

    Seen to fail before there were any.
    """
    before = served.until("bgserver_background_loop_owner", {"loop": "consumer", "owner": "modern"}, 1.0)
    for n in range(3):
        served.get("/")
        served.get(f"/task/no-such-{n}?evil=%22%0A")
        served.get(f"/nowhere/{n}")
    after = served.until("bgserver_route_pairs_total", {"route": "GET /", "verdict": "same"}, 3.0)

    for verdict in ("same", "different", "noise"):
        assert 0.0 == value_of(before, "bgserver_route_pairs_total", route="GET /", verdict=verdict)
    assert 0.0 == value_of(after, "bgserver_route_pairs_total", route="GET /", verdict="different")
    assert 0.0 == value_of(after, "bgserver_route_shadows_dropped_total", route="GET /")
    assert {each.value for each in Dropped} == {
        each.labels["reason"] for each in after["bgserver_shadows_dropped_total"].samples
    }
    assert 1.0 == value_of(after, "bgserver_background_loop_epoch", loop="consumer")
    for loop, stage in (("consumer", LoopStage.LIVE), ("cleanup", LoopStage.LEGACY)):
        for each in LoopStage:
            told = value_of(after, "bgserver_background_loop_stage", loop=loop, stage=each.value)
            assert float(each is stage) == told
        assert 0.0 == value_of(after, "bgserver_background_loop_restarts_total", loop=loop)
        assert 1.0 == value_of(after, "bgserver_background_loop_held", loop=loop)
    assert 0.0 == value_of(after, "bgserver_force_legacy")
    # Whatever was asked for: as many series as before, and names of the policy alone.
    assert {name: len(each.samples) for name, each in before.items()} == {
        name: len(each.samples) for name, each in after.items()
    }
    routes = {each.labels["route"] for family in after.values() for each in family.samples if "route" in each.labels}
    assert {"GET /", "GET /task/{task_id}", "default"} == routes


def test_every_figure_has_its_type_and_is_documented(served: Served) -> None:
    """
    docs/operations.md has a row for each name, and no other; a counter ends in _total, and nothing else does.
    """
    found = served.scraped()

    for name, family in found.items():
        assert family.documentation
        assert (family.type == "counter") is name.endswith("_total")
    rows = re.findall(r"^\| `(bgserver_[a-z0-9_]+)[`{]", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.M)
    optional = {"bgserver_sandbox_ready", "bgserver_sandbox_waiting", "bgserver_sandbox_seedings_total"}
    assert set(found) == set(rows) - optional
    assert len(rows) == len(set(rows))
