"""
Mail: a real dialogue with a real SMTP server, encrypted and with a login where that is set, and nothing injected.
"""

from __future__ import annotations

import email
import email.policy
import os
import smtplib
import socket
import ssl

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from legacy_twisted import mail, tasks
from tests.certificates import self_signed


class Attempt:
    """
    What `deliver` is given, without a worker.
    """

    def __init__(self, jobs) -> None:
        self.jobs = jobs
        self.id = "12345678"
        self.row = {"created_at": tasks.timestamp()}
        self.checkpoints = 0

    def checkpoint(self, progress=0.0):
        self.checkpoints += 1

    def interruptible(self, stop):
        """
        Nobody interrupts this one.
        """


class Mailbox:
    """
    An aiosmtpd handler that keeps what it was sent.
    """

    def __init__(self) -> None:
        self.envelopes = []
        self.encrypted = []
        self.refusal = None

    async def handle_DATA(self, server, session, envelope):
        if self.refusal:
            return self.refusal
        self.envelopes.append(envelope)
        self.encrypted.append(session.ssl is not None)
        return "250 OK"


@pytest.fixture
def mailbox():
    return Mailbox()


def serve(mailbox, **options):
    """
    An SMTP server on a port of its own, in a thread.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    return controller


@pytest.fixture
def plain(jobs, mailbox):
    controller = serve(mailbox)
    use(jobs, controller)
    yield controller
    controller.stop()


def use(jobs, controller, **more):
    for name, value in {"smtp_host": "127.0.0.1", "smtp_port": controller.port, **more}.items():
        object.__setattr__(jobs.settings, name, value)


def test_a_dialogue(jobs, plain, mailbox):
    """
    The server gets sender, receiver and a message that says what was meant, in any script.
    """
    mail.deliver(Attempt(jobs), "ada@example.org", "Hällo 😀", "Zeile 1\n.\nZeile 3 ✓\n")

    envelope = mailbox.envelopes[0]
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert ("jobs@localhost", ["ada@example.org"]) == (envelope.mail_from, envelope.rcpt_tos)
    assert ("Hällo 😀", "Zeile 1\n.\nZeile 3 ✓\n") == (
        message["Subject"],
        message.get_content().replace("\r\n", "\n"),
    )


def test_the_same_message_again(jobs, plain, mailbox):
    """
    A second attempt sends the same id and date, so that a server can tell that it has the message.
    """
    attempt = Attempt(jobs)
    mail.deliver(attempt, "a@example.org", "s", "b")
    mail.deliver(attempt, "a@example.org", "s", "b")

    assert mailbox.envelopes[0].content == mailbox.envelopes[1].content
    assert b"<12345678@jobs>" in mailbox.envelopes[0].content


@pytest.mark.parametrize("subject", ["x\nBcc: all@example.org", "x\r\nBcc: all@example.org", "x\u2028Bcc: y", "x\x85y"])
def test_no_header_is_added(jobs, plain, mailbox, subject):
    """
    Whatever Python may take for a line end in a subject: it begins no header.

    Seen to fail with the subject written into the message as text.
    """
    mail.deliver(Attempt(jobs), "a@example.org", subject, "b")

    message = email.message_from_bytes(mailbox.envelopes[0].content, policy=email.policy.default)
    assert message["Bcc"] is None
    assert ["a@example.org"] == mailbox.envelopes[0].rcpt_tos


def test_odd_addresses(jobs, plain, mailbox):
    """
    Whatever the contract takes for an address arrives as it is.
    """
    address = "o!#$%&'*+/=?^_`{|}~-.@x-1.example.org"

    mail.deliver(Attempt(jobs), address, "s", "b")

    assert [address] == mailbox.envelopes[0].rcpt_tos


@pytest.fixture
def certificate(tmp_path):
    """
    A certificate for 127.0.0.1 that signs itself.
    """
    return self_signed(tmp_path)


def login(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"jobs", b"secret"), handled=False)


@pytest.fixture
def guarded(jobs, mailbox, certificate):
    """
    A server that wants STARTTLS, and then a login.
    """
    context = certificate.context()

    class Guarded(Controller):
        def factory(self):
            return SMTP(
                self.handler,
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=login,
            )

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Guarded(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    use(jobs, controller, smtp_starttls=True, smtp_user="jobs", smtp_password="secret")
    yield controller
    controller.stop()


def test_encrypted_and_logged_in(jobs, guarded, mailbox, certificate, monkeypatch):
    """
    STARTTLS first, then the login, then the message.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.public))

    mail.deliver(Attempt(jobs), "a@example.org", "s", "b")

    assert [True] == mailbox.encrypted


def test_a_stranger_is_not_trusted(jobs, guarded, mailbox):
    """
    A certificate that nobody vouches for ends the dialogue before the password is sent.
    """
    with pytest.raises(ssl.SSLCertVerificationError):
        mail.deliver(Attempt(jobs), "a@example.org", "s", "b")

    assert [] == mailbox.envelopes


def test_a_wrong_password(jobs, guarded, mailbox, certificate, monkeypatch):
    """
    A refused login is an error of the attempt.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.public))
    object.__setattr__(jobs.settings, "smtp_password", "wrong")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        mail.deliver(Attempt(jobs), "a@example.org", "s", "b")


def test_a_server_that_refuses(jobs, plain, mailbox):
    """
    A message that isn't taken is an error, to be tried again.
    """
    mailbox.refusal = "451 later, please"

    with pytest.raises(smtplib.SMTPDataError, match="later, please"):
        mail.deliver(Attempt(jobs), "a@example.org", "s", "b")


def test_a_server_that_says_nothing(jobs):
    """
    The timeout ends a dialogue that doesn't go on.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in (
            ("smtp_host", "127.0.0.1"),
            ("smtp_port", silent.getsockname()[1]),
            ("smtp_timeout", 0.1),
        ):
            object.__setattr__(jobs.settings, name, value)

        with pytest.raises(OSError, match="timed out"):
            mail.deliver(Attempt(jobs), "a@example.org", "s", "b")


def test_a_server_that_is_slow_can_be_cancelled(jobs, plain):
    """
    Between login and message the attempt looks whether it is still wanted.
    """
    attempt = Attempt(jobs)

    mail.deliver(attempt, "a@example.org", "s", "b")

    assert 1 == attempt.checkpoints


def test_the_outbox(jobs):
    """
    Without a server the message is a file; a second attempt replaces it, and no other file is left.
    """
    for _ in range(2):
        mail.deliver(Attempt(jobs), "a@example.org", "Hä", "b\n")

    folder = jobs.settings.path("outbox")
    assert ["12345678.eml"] == os.listdir(folder)
    with open(os.path.join(folder, "12345678.eml"), "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    assert ("jobs@localhost", "a@example.org", "Hä") == (message["From"], message["To"], message["Subject"])
