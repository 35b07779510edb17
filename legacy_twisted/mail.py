"""
Mail: a dialogue with an SMTP server, or a file in the outbox where no
server is set.  Called on a thread of the consumer, which it may block for
as long as the timeouts allow, and no longer than the server may stop.
"""

import contextlib
import datetime
import email.message
import email.policy
import email.utils
import os
import re
import smtplib
import socket
import ssl
import threading

STEPS = 6  # the timeouts, of one step each, that a whole dialogue may take

# This policy refuses line ends in a header's value: nobody adds headers to our mail.
POLICY = email.policy.SMTP.clone(max_line_length=998)
# What Python takes for the end of a line, beside those that no subject has.
BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def message(run, address, subject, body):
    """
    Make the message.  It is the same in every attempt, its id included, so
    that a server can tell that it has it already.
    """
    made = email.message.EmailMessage(policy=POLICY)
    made["From"] = run.jobs.settings.smtp_sender
    made["To"] = address
    made["Subject"] = BREAKS.sub(" ", subject)
    created = datetime.datetime.fromisoformat(run.row["created_at"].replace("Z", "+00:00"))
    made["Date"] = email.utils.format_datetime(created)
    made["Message-ID"] = f"<{run.id}@jobs>"
    made.set_content(body, cte=None if body.isascii() else "base64")
    return made


def deliver(run, address, subject, body):
    """
    Send a mail, or keep it in the outbox.

    @raise smtplib.SMTPException: and OSError, when it must be tried again.
    """
    letter = message(run, address, subject, body)
    if run.jobs.settings.smtp_host:
        send(run, address, letter)
    else:
        keep(run, letter)


def keep(run, letter):
    path = run.jobs.settings.path("outbox", run.id + ".eml")
    part = f"{path}.{run.jobs.boot}.part"
    with open(part, "wb") as file:
        file.write(letter.as_bytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


class Dialogue(smtplib.SMTP):
    """
    A connection that any thread may hang up: whoever waits for the server's
    next word has an error instead.
    """

    overdue = False
    _over = False
    _line = None

    def _get_socket(self, host, port, timeout):
        made = smtplib.SMTP._get_socket(self, host, port, timeout)
        # A descriptor of its own: under TLS the socket is another object.
        self._line = made.dup()
        if self._over:
            self.hangUp()
        return made

    def hangUp(self):
        self._over = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def outOfTime(self):
        self.overdue = True
        self.hangUp()

    def close(self):
        smtplib.SMTP.close(self)
        line, self._line = self._line, None
        if line is not None:
            line.close()


def send(run, address, letter):
    settings = run.jobs.settings
    # Not connected yet: hanging up and the time limit are to cover that, too.
    dialogue = Dialogue(
        local_hostname=socket.gethostname(),  # smtplib's own look-up may wait for DNS
        timeout=settings.smtp_timeout,
    )
    run.interruptible(dialogue.hangUp)
    limit = threading.Timer(STEPS * settings.smtp_timeout, dialogue.outOfTime)
    limit.daemon = True
    limit.start()
    try:
        speak(run, dialogue, address, letter)
    except (OSError, smtplib.SMTPException) as error:
        if dialogue.overdue:
            raise TimeoutError("the dialogue with the mail server took too long") from error
        raise
    finally:
        limit.cancel()
        dialogue.close()


def speak(run, dialogue, address, letter):
    settings = run.jobs.settings
    # The name that TLS asks the certificate for, which only a constructor that connects would keep.
    dialogue._host = settings.smtp_host
    dialogue.connect(settings.smtp_host, settings.smtp_port)
    if settings.smtp_starttls:
        dialogue.starttls(context=ssl.create_default_context())
    if settings.smtp_user:
        dialogue.login(settings.smtp_user, settings.smtp_password)
    run.checkpoint(0.5)
    dialogue.send_message(letter, from_addr=settings.smtp_sender, to_addrs=[address])
    with contextlib.suppress(OSError, smtplib.SMTPException):
        dialogue.quit()  # it has taken the mail: how it says goodbye is no matter
