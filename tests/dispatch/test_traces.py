"""
Whose change a change is, while an instance goes on working and the next write is run.
"""

from __future__ import annotations

from bridge.dispatch.sandbox.traces import Habits, Trace, belongs
from bridge.dispatch.trial import Request
from bridge.parity import Effect, Ending, Recording

ONE = "11111111-1111-4111-8111-111111111111"
TWO = "22222222-2222-4222-8222-222222222222"


def trace(path: str = "/a", body: bytes = b"", answer: str = "") -> Trace:
    recording = Recording(0.0)
    recording.started(200, [], 0.0)
    recording.wrote(answer.encode())
    return Trace.of(Request({"path": path}, (body,)), recording.closed(Ending.COMPLETE, 0.0))


def change(key: str, op: str = "update", kind: str = "row", **row: object) -> Effect:
    return Effect(kind, key, {"op": op, **row})


def given(effect: Effect, traces: list[Trace], current: Trace | None = None, habits: Habits | None = None) -> list:
    """
    The changes of every trace, the running one's last.
    """
    belongs(effect, traces, current, habits or Habits(), 7.0)
    return [each.changes for each in [*traces, *([current] if current else [])]]


def test_later_work_is_its_makers():
    """
    A task's progress belongs to the write that made it, although another one runs.
    """
    progress = change(f"tasks:{ONE}")

    assert [[progress], [], []] == given(progress, [trace(answer=ONE), trace(answer=TWO)], trace())


def test_a_write_about_it_comes_first():
    """
    What changes while a write about that task runs is that write's.
    """
    cancelled = change(f"tasks:{ONE}")

    assert [[], [cancelled]] == given(cancelled, [trace(answer=ONE)], trace(f"/task/{ONE}"))


def test_rows_made_on_the_way_are_known():
    """
    A row that came with a write is its own from then on, and so is what names it.
    """
    maker = trace(answer=ONE)

    given(change(f"files:{TWO}", "insert", task_id=ONE), [maker])
    given(change("log:5", task_id=TWO), [maker])

    assert 2 == len(maker.changes)
    assert 7.0 == maker.last


def test_keys_that_a_request_says():
    """
    A row without an id is known by its key, where the request or the answer says it.
    """
    row = change("subscriptions:someone@example.org", "insert")

    assert [[row], []] == given(row, [trace(body=b'{"email":"someone@example.org"}')], trace())


def test_what_shares_nothing_is_the_running_ones():
    """
    Better one change too many at a write than one that nobody sees.
    """
    row = change("counters:x")

    assert [[], [row]] == given(row, [trace()], trace())
    assert [[]] == given(row, [trace()])


def test_what_comes_by_itself_is_nobodys():
    """
    A heartbeat was seen when nothing ran, so it is no write's when one runs.
    """
    habits = Habits()

    given(change("processes:x"), [], None, habits)

    assert {("row", "processes")} == habits.unprompted
    assert [[]] == given(change("processes:x"), [], trace(), habits)
    assert [[change(f"processes:{ONE}")]] == given(change(f"processes:{ONE}"), [], trace(answer=ONE), habits)


def test_a_process_is_no_writes():
    """
    An id that an instance showed when nothing ran is its own: a file that is called by
    it too, or a row that it owns, is found by its other ids.
    """
    habits = Habits()
    maker = trace(answer=ONE)

    given(change(f"processes:{TWO}", "insert"), [], None, habits)
    given(change(f"outbox:{ONE}.eml.{TWO}.part", "insert"), [maker], None, habits)
    given(change("tasks:9", owner=TWO), [maker], None, habits)

    assert 1 == len(maker.changes)
    assert {ONE} == maker.ids


def test_late_work_is_nobodys():
    """
    What a write does after it was judged isn't the next one's; unless that is about it.
    """
    habits = Habits(gone={ONE: None})
    current, about = trace(), trace(f"/task/{ONE}")

    given(change("log:1", task_id=ONE), [], current, habits)
    given(change(f"tasks:{ONE}"), [], current, habits)
    given(change(f"tasks:{ONE}"), [], about, habits)

    assert ([], 1) == (current.changes, len(about.changes))
    habits.forget()
    assert {} == habits.gone


def test_a_number_says_nothing():
    """
    The key of a row that is only counted stands in many texts by chance, in ids above all.

    Seen to fail with 256 open writes: an event of one was taken for another's.
    """
    event = change("events:2222", "insert", task_id=ONE)

    assert [[], [event]] == given(event, [trace(answer=TWO), trace(answer=ONE)])


def test_of_two_that_say_it_the_last():
    """
    Work ends soon, as a rule: what two writes name is the later one's.
    """
    row = change("subscriptions:someone@example.org")
    said = b'{"email": "someone@example.org"}'

    assert [[], [row], []] == given(row, [trace(body=said), trace(body=said)], trace())
