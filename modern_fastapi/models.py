"""
The bodies that come in and go out. What comes in is checked by the types of ``fields``; keys go out in this order.
"""

from typing import Any, Literal

from pydantic import BaseModel

from .fields import Body, Bound, Email, Failures, Line, PersonName, StatusName


class Registration(BaseModel):
    """
    A new account.
    """

    email: Email
    name: Line


class Registered(BaseModel):
    """
    The account, and the tasks that follow from it.
    """

    user_id: str
    email: str
    name: str
    task_ids: list[str]


class Mail(BaseModel):
    """
    A mail to send.
    """

    email: Email
    subject: Line
    body: Body


class Subscriber(BaseModel):
    """
    An address that wants to hear from us.
    """

    email: Email


class Accepted(BaseModel):
    """
    The work is in the table.
    """

    task_id: str


class Queued(BaseModel):
    """
    The work is in the table, in words.
    """

    message: str
    task_id: str


class QueuedFor(BaseModel):
    """
    The work for one address is in the table.
    """

    message: str
    email: str
    task_id: str


class NewItem(BaseModel):
    """
    An item that was made.
    """

    item_id: str
    name: str
    task_id: str


class ItemProcessing(BaseModel):
    """
    What processing an item has started: the dependency's task first, where there is a query.
    """

    item_id: str
    query: str | None
    task_ids: list[str]


class Uploaded(BaseModel):
    """
    A file that was received.
    """

    upload_id: str
    filename: str
    task_id: str


class Exporting(BaseModel):
    """
    An export that is being made.
    """

    export_id: str
    task_id: str


class Cleaning(BaseModel):
    """
    A clean-up that is under way.
    """

    days: int
    task_id: str


class Primes(BaseModel):
    """
    How far to count.
    """

    n: Bound


class Unstable(BaseModel):
    """
    How often to fail first.
    """

    failures: Failures


class TaskState(BaseModel):
    """
    One task.
    """

    id: str
    name: str
    status: StatusName
    attempts: int
    progress: float
    result: Any
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class TaskPage(BaseModel):
    """
    Tasks, oldest first; ``next`` is the ``after`` of the next page.
    """

    tasks: list[TaskState]
    next: str | None


class Cancelling(BaseModel):
    """
    Where a task stands after it was asked to end.
    """

    id: str
    status: StatusName


class LoopHealth(BaseModel):
    """
    A loop: who runs it, how it is, and the age of its last tick in seconds.
    """

    name: str
    owner: Literal["legacy", "modern"] | None
    state: Literal["running", "stopped", "failed", "fenced"]
    age: float | None


class Health(BaseModel):
    """
    Whether all loops do their work.
    """

    status: Literal["ok", "degraded"]
    loops: list[LoopHealth]


class Login(BaseModel):
    """
    Who comes.
    """

    name: PersonName


class Visitor(BaseModel):
    """
    Who is here, and how often was.
    """

    name: str
    visits: int


class DailyReport(BaseModel):
    """
    One day: its tasks by status, and all users up to its end.
    """

    day: str
    tasks: dict[str, int]
    users: int
