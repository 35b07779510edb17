"""
The servers that are forked warm: what waits for them, and what they know of the tests.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract import warm
from tests.contract.servers import environment

Run = Callable[[str], warm.Forked]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """
    Forks a process that runs this code; what it says goes to `said`.
    """

    def begin(code: str) -> warm.Forked:
        script = tmp_path / "script.py"
        script.write_text(code)
        with (tmp_path / "said").open("wb") as output:
            return warm.fork([str(script)], tmp_path, environment(), output)

    return begin


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[], warm.Nest]:
    """
    Makes a nest of a test's own.
    """

    def make() -> warm.Nest:
        nest = warm.Nest()
        monkeypatch.setattr(warm, "_nest", lambda: nest)
        return nest

    return make


def test_all_who_wait_hear_the_same(run: Run) -> None:
    """
    There is one status to fetch, and every thread that waits gets it.

    Seen to fail where each fetched it by itself: the second asked for a child that was gone, and ended the nest.
    """
    forked = run("import time; time.sleep(0.5); raise SystemExit(7)")
    gate = threading.Barrier(8)
    heard: list[int] = []

    def wait() -> None:
        gate.wait()
        heard.append(forked.wait(30))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [7] * 8 == heard
    assert 7 == forked.poll()


def test_who_has_ended_is_signalled_in_vain(run: Run) -> None:
    """
    As with `subprocess`: no error, and nobody else's process is meant.
    """
    forked = run("")
    assert 0 == forked.wait(30)

    forked.terminate()
    forked.kill()

    assert 0 == forked.wait()


@pytest.mark.slow
def test_a_dead_nest_says_so(run: Run, own: Callable[[], warm.Nest]) -> None:
    """
    A test whose server's status is lost, or that gets no server, reads why.

    Seen to fail with "invalid literal for int()", which is all that was said.
    """
    nest = own()
    forked = run("import time; time.sleep(60)")
    nest.kill()
    forked.kill()

    with pytest.raises(warm.NestError, match=f"no status of {forked.pid}.*has the status -9"):
        forked.wait(30)
    with pytest.raises(warm.NestError, match=r"no process for .*script\.py.*has the status -9"):
        run("")


def test_no_folder_is_no_process(tmp_path: Path) -> None:
    """
    What cannot begin is an error here, and no wait without end; the next one begins.

    Seen to fail: nobody answered, and the test hung.
    """
    with (tmp_path / "said").open("wb") as output:
        with pytest.raises(warm.NestError, match="No such file or directory"):
            warm.fork(["script.py"], tmp_path / "none", environment(), output)
        (tmp_path / "script.py").write_text("")
        assert 0 == warm.fork([str(tmp_path / "script.py")], tmp_path, environment(), output).wait(30)


@pytest.mark.slow
def test_the_path_is_its_own(
    run: Run, own: Callable[[], warm.Nest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A server imports from where a user's would: what the tests' own PYTHONPATH names is not among it.

    Seen to fail where the nest was started with the tests' environment.
    """
    stray = tmp_path / "stray"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(stray), *sys.path)))
    own()

    assert 0 == run("import sys; print(*sys.path, sep='\\n')").wait(30)

    path = (tmp_path / "said").read_text().splitlines()
    assert str(stray) not in path
    assert environment()["PYTHONPATH"].split(os.pathsep) == [entry for entry in path if entry][1:3]
    assert str(tmp_path) == path[0]
