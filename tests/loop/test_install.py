"""
Installing the reactor, and refusing to where another one is.
"""

from __future__ import annotations

import sys

import pytest

from tests.loop.snippets import both_loops, finish, run


@both_loops
def test_install_takes_the_named_loop(loop):
    """
    The loop is the one that was asked for; a second call returns the same reactor.
    """
    ran = run(
        """
        import sys
        import bridge.loop
        reactor = bridge.loop.install(sys.argv[1])
        assert ("uvloop" in type(reactor.loop).__module__) == (sys.argv[1] == "uvloop")
        assert bridge.loop.install() is reactor
        from twisted.internet import reactor as theirs
        assert theirs is reactor
        """,
        loop,
    )

    assert ran.passed, ran.err


def test_importing_installs_nothing():
    """
    `import bridge.loop` leaves the choice of the reactor open.
    """
    ran = run("import bridge.loop, sys; assert 'twisted.internet.reactor' not in sys.modules")

    assert ran.passed, ran.err


@pytest.mark.parametrize(
    "importing, culprit",
    [("import twisted.web.proxy", "twisted.web.proxy"), ("from twisted.internet import reactor", "__main__")],
)
def test_wrong_reactor_is_refused_by_name(importing, culprit):
    """
    Where another reactor is installed, the error names the module that imported it first. (Seen to fail with the
    first match in sys.modules instead: it named whoever imported the culprit.)
    """
    ran = run(f"{importing}\nfrom twisted.internet import reactor\nimport bridge.loop\nbridge.loop.install()")

    assert 1 == ran.status
    assert f"WrongReactorError: {culprit} imported twisted.internet.reactor first and got" in ran.err
    assert "EPollReactor" in ran.err


def test_another_running_loop_is_refused():
    """
    Inside a running asyncio loop there is no uvloop to be had, and the error says whose business that is.
    """
    ran = run(
        """
        import asyncio, bridge.loop
        async def main():
            bridge.loop.install("uvloop")
        asyncio.run(main())
        """
    )

    assert "WrongLoopError: The loop uvloop was asked for, and asyncio is there already" in ran.err


def test_an_unknown_loop_is_refused():
    """
    Only three names are known.
    """
    ran = run("import bridge.loop; bridge.loop.install('trio')")

    assert "WrongLoopError: There is no loop 'trio'. Take auto, asyncio or uvloop." in ran.err


def test_twistd_takes_the_reactor_by_name():
    """
    `twistd --reactor=bgserver` runs any command on the bridged reactor; listing reactors imports none.
    """
    code = (
        "import sys; sys.argv = ['twistd', '--help-reactors'];"
        "from twisted.application.reactors import getReactorTypes, installReactor;"
        "names = [r.shortName for r in getReactorTypes()]; assert 'bgserver' in names, names;"
        "assert 'twisted.internet.reactor' not in sys.modules;"
        "installReactor('bgserver');"
        "from twisted.internet import reactor; assert type(reactor).__name__ == 'BridgeReactor', reactor"
    )
    ran = finish([sys.executable, "-c", code])

    assert ran.passed, ran.err
