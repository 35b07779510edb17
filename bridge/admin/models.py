"""
Owns the shapes of the admin API, from which its OpenAPI document is made.

Refuses: to lose what it doesn't know: answers may have more keys than are named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge.routing import Stage


class Open(BaseModel):
    """
    An answer; more keys may follow.
    """

    model_config = ConfigDict(extra="allow")


class Alive(BaseModel):
    """
    An answer.
    """

    alive: bool


class RouteRow(Open):
    """
    Where one route stands.
    """

    route: Annotated[str, Field(examples=["GET /export/{export_id}"])]
    stage: Stage
    weight: Annotated[float | int, Field(description="Percent of subjects that a canary moves; else 0.")]
    pairs: Annotated[int, Field(description="Compared pairs at this stage, of the code that runs.")]
    mismatches: int
    gate: Annotated[str, Field(examples=["hold", "promote", "demote"])]
    why: str


class LoopRow(Open):
    """
    Where one background loop stands.
    """

    loop: str
    owner: Annotated[str | None, Field(description="The side that holds its lease.")]
    epoch: int
    stage: str
    observed: Annotated[
        dict[str, Any] | None, Field(description="Ticks of its dry run: same, different, missing; its last error.")
    ] = None


class StateHealth(Open):
    """
    How the state database is doing.
    """

    url: str
    problem: str | None
    lost: Annotated[int, Field(description="Writes that were given up since the start.")]
    waiting: int


class EvidenceHealth(Open):
    """
    How the evidence is doing.
    """

    problem: Annotated[str | None, Field(description="Why it waits to be stored, if it does.")]
    lost: Annotated[int, Field(description="Samples that found no room meanwhile; counts are never lost.")]


class ServerRow(Open):
    """
    One server on the state.
    """

    name: Annotated[str, Field(description="Host, process, and a number of this start alone.")]
    at: Annotated[float, Field(description="Its last sign of life, in seconds since 1970, UTC.")]
    force_legacy: Annotated[bool, Field(description="Whether legacy answers everything there.")]
    alive: Annotated[bool, Field(description="Whether it is taken to run: a killed one says no goodbye.")]


class Status(Open):
    """
    Where everything stands.
    """

    routes: list[RouteRow]
    loops: list[LoopRow]
    version: Annotated[int, Field(description="The state's change counter.")]
    policy: str
    force_legacy: Annotated[bool, Field(description="Whether legacy answers everything here.")]
    servers: list[ServerRow] = []
    state: StateHealth | None = None
    evidence: EvidenceHealth | None = None


class Standing(Open):
    """
    A stage and its weight.
    """

    stage: str
    weight: float | int


class ChangeRow(Open):
    """
    One row of the audit log; it has C{route} or C{loop}.  An answer to a proposed rule
    is a row of its route, from "proposed" to "accepted" or "refused".
    """

    id: int
    at: Annotated[float, Field(description="Seconds since 1970, UTC.")]
    who: str
    source: Annotated[Standing, Field(alias="from")]
    to: Standing
    why: str
    forced: bool
    evidence: int | None


class Audit(BaseModel):
    """
    The latest changes, newest first.
    """

    audit: list[ChangeRow]


class RouteDetails(RouteRow):
    """
    All about one route.
    """

    audit: list[ChangeRow]


class LoopDetails(LoopRow):
    """
    All about one background loop.
    """

    differences: Annotated[
        list[dict[str, Any]], Field(description="How its dry run differed, each with the newest tick that shows it.")
    ]
    audit: list[ChangeRow]


class EvidenceAnswer(Open):
    """
    What the gate rules on.
    """

    route: str
    identity: Annotated[str | None, Field(description="The code and rules that it belongs to.")]
    stage: str
    seconds: float
    counts: dict[str, int]
    gate: str
    passing: Annotated[bool, Field(description="Whether the evidence lets the route go one step forward.")]
    why: str


class Differences(Open):
    """
    How a route's sides differ, the most frequent difference first.
    """

    route: str
    identity: str | None
    counts: dict[str, int]
    differences: list[dict[str, Any]]
    proposals: list[dict[str, Any]]


class Report(Status):
    """
    The whole migration.
    """

    stages: dict[str, int]
    differences: list[Differences]
    audit: list[ChangeRow]


class Moved(Open):
    """
    What a move came to; it has C{route} or C{loop}, C{anew} where its evidence begins
    anew, and C{problem} where it counts in this process and couldn't be recorded yet.
    """

    source: Annotated[Standing, Field(alias="from")]
    to: Standing
    changed: Annotated[bool, Field(description="False if it stood there already.")]
    audit: int | None


class Left(Open):
    """
    What a rollback of all left where it was; it has C{route} or C{loop}.
    """

    stage: str
    side: Annotated[Literal["legacy", "modern"], Field(description="Who answers, or runs it.")]
    why: str


class AllMoved(BaseModel):
    """
    What a rollback came to.
    """

    moved: list[Moved]
    left: Annotated[list[Left], Field(description="Empty where one route was named.")]


class RuleAnswer(Open):
    """
    What became of a proposed rule.
    """

    route: str
    rule: str
    status: str
    owner: str


class Closed(BaseModel):
    """
    A request; a key that isn't named here is a mistake.
    """

    model_config = ConfigDict(extra="forbid")


class SetRequest(Closed):
    """
    Move a route to a stage.
    """

    route: Annotated[str, Field(examples=["GET /export/{export_id}"])]
    stage: Stage
    weight: Annotated[
        float | None, Field(ge=0, le=100, description="Percent for a canary; the policy's, if not given.")
    ] = None
    force: Annotated[bool, Field(description="Go without passing evidence; wants a reason.")] = False
    why: str = ""
    who: Annotated[str, Field(max_length=200, description="Who asks, for the audit log.")] = "admin API"


class RollbackRequest(Closed):
    """
    Send one route, or all, back to legacy.
    """

    route: str | None = None
    all: bool = False
    why: str = "rollback"
    who: Annotated[str, Field(max_length=200)] = "admin API"


class RuleRequest(Closed):
    """
    Answer a proposed rule.
    """

    route: str
    rule: Annotated[str, Field(examples=["$.generated_at"])]
    status: Literal["accepted", "refused"]
    who: Annotated[str, Field(max_length=200, description="Who owns the rule from now on.")] = "admin API"


class HandOffRequest(Closed):
    """
    Have a background loop run on another side.
    """

    loop: str
    stage: str
    why: str = ""
    who: Annotated[str, Field(max_length=200)] = "admin API"


class Refusal(BaseModel):
    """
    Why something isn't done.
    """

    error: Annotated[
        str,
        Field(
            examples=["refused", "unknown", "stale", "not_built", "unavailable", "bad_request", "no_token", "not_local"]
        ),
    ]
    message: str
