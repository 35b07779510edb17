"""
Mail: a dialogue with an SMTP server, or a file in the outbox where no
server is set.  Called on a thread of the consumer, which it may block for
as long as the timeouts allow.
"""

import datetime
import email.message
import email.policy
import email.utils
import os
import re
import smtplib
import socket
import ssl

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


def send(run, address, letter):
    settings = run.jobs.settings
    with smtplib.SMTP(
        settings.smtp_host,
        settings.smtp_port,
        local_hostname=socket.gethostname(),  # smtplib's own look-up may wait for DNS
        timeout=settings.smtp_timeout,
    ) as server:
        if settings.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user:
            server.login(settings.smtp_user, settings.smtp_password)
        run.checkpoint(0.5)
        server.send_message(letter, from_addr=settings.smtp_sender, to_addrs=[address])
