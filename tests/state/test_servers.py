"""
What running servers leave in the state, and what of it can be read later.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bridge.state import Store
from bridge.state.servers import ALIVE, FORGOTTEN, Presence


def test_a_server_is_there_until_it_says_goodbye(any_store: Store) -> None:
    """
    With what it said last, on either database.
    """
    any_store.present("web-1", False, 10.0)
    any_store.present("web-1", True, 15.0)
    any_store.present("web-2", False, 12.0)
    there = any_store.servers()
    any_store.absent("web-1")

    assert [Presence("web-1", 15.0, True), Presence("web-2", 12.0, False)] == there
    assert ["web-2"] == [each.name for each in any_store.servers()]


def test_a_killed_server_is_forgotten_by_the_next_one(store: Store) -> None:
    """
    Its row stays while nobody else is there, and no longer than a minute beside a living one.
    """
    store.present("killed", True, 10.0)
    store.present("next", False, 10.0 + FORGOTTEN)
    both = store.servers()
    store.present("next", False, 11.0 + FORGOTTEN)

    assert ["next", "killed"] == [each.name for each in both]
    assert ["next"] == [each.name for each in store.servers()]
    assert [True, False] == [both[1].alive(10.0 + ALIVE), both[1].alive(11.0 + ALIVE)]


def test_an_earlier_state_has_no_such_table_and_gets_it_at_a_start(url: str, tmp_path: Path) -> None:
    """
    Whoever looks first finds nobody there, and no error.
    """
    Store.open(url).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("DROP TABLE bgserver_servers")
    connection.close()

    looked = Store.open(url, create=False).servers()
    started = Store.open(url)
    started.present("web-1", False, 1.0)

    assert [] == looked
    assert 1 == len(started.servers())
