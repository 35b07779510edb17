"""
The application around its routes: errors, draining, sessions, effects, mail, child processes, and its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from modern_fastapi.processes import Processes
from modern_fastapi.tasks.numbers import primes_between
from tests.certificates import self_signed
from tests.modern.application import Running, run, running, services

ROOT = Path(__file__).resolve().parents[2]


async def ask(app: Any, method: str, path: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    """
    A request whose scope a server has added to.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        **more,
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:])


def test_unexpected_error_has_an_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    What nobody expected is a 500 in the contract's form, and its id leads to the traceback.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:

            async def broken() -> int:
                raise RuntimeError("the disk is on fire")

            one.services.events.newest = broken  # type: ignore[method-assign]
            answer = await one.client.get("/events")
        request_id = answer.headers["x-request-id"]
        body = {"error": "internal", "message": f"an unexpected error, request {request_id}"}
        assert (500, body) == (answer.status_code, answer.json())
        assert "the disk is on fire" not in answer.text
        record = next(each for each in caplog.records if request_id in each.getMessage())
        assert record.exc_info is not None
        assert logging.ERROR == record.levelno

    run(scenario())


def test_draining_refuses_everything(tmp_path: Path) -> None:
    """
    Once stopping has begun every request, health included, is told to come back.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            one.app.state.drain()
            answer = await one.client.get("/healthz")
        assert (503, "5", "draining") == (answer.status_code, answer.headers["retry-after"], answer.json()["error"])

    run(scenario())


def test_session_of_the_server_is_used(tmp_path: Path) -> None:
    """
    W12: where whoever called us has put a session into the scope, it is that session, and no cookie is set.

    Seen to fail with Starlette's SessionMiddleware alone, which overwrites it.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            session = {"name": "Ann", "visits": 3}
            status, headers, body = await ask(one.app, "GET", "/me", session=session)
        assert (200, {"name": "Ann", "visits": 4}) == (status, json.loads(body))
        assert {"name": "Ann", "visits": 4} == session
        assert "set-cookie" not in headers

    run(scenario())


def test_own_session_lives_in_a_signed_cookie(tmp_path: Path) -> None:
    """
    Alone the application keeps its session itself; a forged cookie is no session.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            await one.client.post("/login", json={"name": "Ann"})
            assert {"name": "Ann", "visits": 2} == (await one.client.get("/me")).json()
            await one.client.post("/logout")
            assert 401 == (await one.client.get("/me")).status_code
            one.client.cookies.set("session", "eyJuYW1lIjoiQW5uIiwidmlzaXRzIjoxfQ==.forged.forged")
            assert 401 == (await one.client.get("/me")).status_code

    run(scenario())


def test_effects_are_reported_after_the_commit(tmp_path: Path) -> None:
    """
    A server that compares hears of each row that a request made, and of none that was rolled back.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            heard: list[tuple[str, str, Any]] = []
            extensions = {"bgserver.effects": lambda *effect: heard.append(effect)}
            await ask(one.app, "POST", "/items?name=n", extensions=extensions)
            assert ["items", "tasks:log.write"] == [key for _, key, _ in heard]
            await ask(one.app, "POST", "/items", extensions=extensions)
            assert 2 == len(heard)

    run(scenario())


def test_shadow_leaves_no_line(tmp_path: Path) -> None:
    """
    A rehearsal is not in the request log; every real request is once, as it was sent.

    Seen to fail when lines were forgotten only after they were written: the end of the application wrote them again.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            await ask(one.app, "GET", "/a%2Fb?x=1", extensions={"bgserver.shadow": {}})
            await ask(one.app, "HEAD", "/a%2Fb?x=1")
        lines = [json.loads(line) for line in (tmp_path / "requests.log").read_text().splitlines()]
        assert [("HEAD", "/a%2Fb", 404)] == [(each["method"], each["path"], each["status"]) for each in lines]

    run(scenario())


class Mailbox:
    """
    What an SMTP server was given; it refuses the first `refusals` messages for now.
    """

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.letters: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        from email import message_from_bytes, policy

        if self.refusals:
            self.refusals -= 1
            return "451 try again later"
        self.letters.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


async def deliver(data: Path, mailbox: Mailbox, subject: str = "Hi", **more: Any) -> tuple[str, str | None]:
    """
    How a mail's task ended with a real SMTP server in this process, and its error.
    """
    smtp = pytest.importorskip("aiosmtpd.smtp")
    extra = {key: more.pop(key) for key in ("tls_context", "authenticator", "auth_required") if key in more}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: smtp.SMTP(mailbox, enable_SMTPUTF8=False, hostname="mail.test", auth_require_tls=False, **extra),
        "127.0.0.1",
        0,
    )
    port = server.sockets[0].getsockname()[1]
    try:
        async with running(data, smtp_host="127.0.0.1", smtp_port=port, smtp_timeout=5.0, **more) as one:
            letter = {"email": "ann@example.org", "subject": subject, "body": "Grüße\n"}
            task_id = (await one.client.post("/send-email", json=letter)).json()["task_id"]
            await one.ended(task_id)
            task = (await one.client.get(f"/task/{task_id}")).json()
            return task["status"], task["error"]
    finally:
        server.close()
        await server.wait_closed()


def test_mail_is_sent_in_a_real_dialogue(tmp_path: Path) -> None:
    """
    A server that says 451 is tried again, and what arrives is what was asked for.
    """

    async def scenario() -> None:
        mailbox = Mailbox(refusals=1)
        assert ("SUCCESS", None) == await deliver(tmp_path, mailbox, "Grüße")
        (letter,) = mailbox.letters
        assert ("ann@example.org", "Grüße") == (letter["To"], letter["Subject"])
        assert "Grüße" == letter.get_content().strip()

    run(scenario())


def test_subject_adds_no_header(tmp_path: Path) -> None:
    """
    A line separator that the fields let through does not end the header.
    """

    async def scenario() -> None:
        mailbox = Mailbox()
        assert ("SUCCESS", None) == await deliver(tmp_path, mailbox, "a\u2028Bcc: eve@example.org")
        (letter,) = mailbox.letters
        assert (None, "a Bcc: eve@example.org") == (letter["Bcc"], letter["Subject"])

    run(scenario())


def test_mail_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """
    Where STARTTLS is set and the server hasn't got it, nothing is sent, and no password either.
    """

    async def scenario() -> None:
        mailbox = Mailbox()
        settings = {"smtp_starttls": True, "smtp_user": "u", "smtp_password": "p"}
        status, error = await deliver(tmp_path, mailbox, **settings)
        assert "FAILURE" == status
        assert "STARTTLS" in (error or "")
        assert [] == mailbox.letters

    run(scenario())


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_login_is_used(tmp_path: Path) -> None:
    """
    A server that wants a login gets the one that was set.
    """

    async def scenario() -> None:
        smtp = pytest.importorskip("aiosmtpd.smtp")
        seen: list[Any] = []

        def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
            seen.append((data.login, data.password))
            return smtp.AuthResult(success=True)

        mailbox = Mailbox()
        more = {"authenticator": check, "auth_required": True, "smtp_user": "u", "smtp_password": "p"}
        assert ("SUCCESS", None) == await deliver(tmp_path, mailbox, **more)
        assert [(b"u", b"p")] == seen

    run(scenario())


def test_wrong_certificate_is_refused(tmp_path: Path) -> None:
    """
    STARTTLS with a certificate that nobody trusts is no encryption: the mail waits.
    """
    context = self_signed(tmp_path).context()

    async def scenario() -> None:
        mailbox = Mailbox()
        status, error = await deliver(tmp_path, mailbox, tls_context=context, smtp_starttls=True)
        assert ("FAILURE", []) == (status, mailbox.letters)
        assert "certificate" in (error or "").lower()

    run(scenario())


def test_killed_child_costs_only_time() -> None:
    """
    A child of the process pool that is killed is replaced, and its work is done again.

    Seen to fail (BrokenProcessPool, now and for ever) with a bare ProcessPoolExecutor.
    """

    async def scenario() -> None:
        processes = Processes(1)
        assert 78498 == await processes.run(primes_between, 0, 1_000_001)
        assert processes._pool is not None
        (child,) = processes._pool._processes
        os.kill(child, signal.SIGKILL)
        assert 78498 == await processes.run(primes_between, 0, 1_000_001)
        await processes.close()

    run(scenario())


def test_a_closed_pool_has_ended() -> None:
    """
    No child and no thread of the pool is left to whatever ends next, the interpreter included.

    Seen to fail: a pool that was told to end without a wait forgot whom to wait for.
    """

    async def scenario() -> None:
        processes = Processes(2)
        await asyncio.gather(*(processes.run(primes_between, 0, 101) for _ in range(4)))
        assert processes._pool is not None
        manager = processes._pool._executor_manager_thread
        children = list(processes._pool._processes.values())
        assert manager is not None

        await processes.close()

        assert not manager.is_alive()
        assert all(child.exitcode is not None for child in children)

    run(scenario())


@pytest.mark.parametrize(("start", "end", "count"), [(0, 1, 0), (0, 3, 1), (0, 101, 25), (100, 201, 21), (0, 2, 0)])
def test_primes_of_a_segment(start: int, end: int, count: int) -> None:
    """
    The sieve counts the primes from the first up to, and without, the last.
    """
    assert count == primes_between(start, end)


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    """
    A data folder that cannot be one is said at start, not at the first upload.
    """
    (tmp_path / "file").write_text("")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="nothing can be written"):
            async with services(tmp_path / "file" / "data"):
                raise AssertionError("it opened")

    run(scenario())


@pytest.mark.slow
def test_refusal_is_one_line(tmp_path: Path) -> None:
    """
    An operator reads what is wrong, not where in the code it was found.

    Seen to fail without SayWhyNot: Starlette sends the traceback as the reason.
    """
    (tmp_path / "file").write_text("")
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "modern_fastapi.app:create_app", "--factory", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JOBS_DATA": str(tmp_path / "file" / "data")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 0 != ended.returncode
    assert "nothing can be written" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_open_stream_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """
    SIGTERM ends event streams, and with them uvicorn, although it waits for open answers without a limit.

    Seen to hang with `drain_on_signals` taken out: ASGI says that the server stops only when all answers have ended.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    command = ["-m", "uvicorn", "modern_fastapi.app:create_app", "--factory", "--fd", str(listener.fileno())]
    process = subprocess.Popen(
        [sys.executable, *command],
        pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JOBS_DATA": str(tmp_path)},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    listener.close()
    try:
        with httpx.stream("GET", f"http://127.0.0.1:{port}/events", timeout=30) as answer:
            pieces = answer.iter_raw()
            assert b"retry: 2000\n\n" == next(pieces)
            process.send_signal(signal.SIGTERM)
            assert [] == [piece for piece in pieces if piece]
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def test_running_helper_is_an_application(tmp_path: Path) -> None:
    """
    The front page says hello.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            assert isinstance(one, Running)
            answer = await one.client.get("/")
        assert ("Hello, world!", "text/html; charset=utf-8") == (answer.text, answer.headers["content-type"])

    run(scenario())
