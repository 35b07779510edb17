"""
Tasks that send mail: over SMTP where a server is set, else as a file in the outbox folder.

Sending again after a crash may deliver twice (no SMTP server can tell); the Message-ID is the task's own, so that the
receiver's can. What a client wrote goes into headers only through ``EmailMessage``, which refuses line breaks.
"""

import asyncio
import contextlib
import re
import ssl
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from aiosmtplib import SMTP as SMTPClient
from aiosmtplib import SMTPException
from pydantic import BaseModel

from modern_fastapi.clock import from_text
from modern_fastapi.settings import Settings

from .context import TaskContext
from .records import Account

# The timeouts, of one step each, that a whole dialogue may take.
STEPS = 6

# What Python takes for the end of a line. The fields let some of these through, and a header may have none.
BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Message(BaseModel):
    """
    A mail to one address.
    """

    email: str
    subject: str
    body: str


async def send_email(context: TaskContext, params: Message) -> None:
    """
    Delivers one mail.
    """
    services = context.services
    message = EmailMessage(policy=SMTP.clone(max_line_length=998))
    message["From"] = services.settings.smtp_sender
    message["To"] = params.email
    message["Subject"] = BREAKS.sub(" ", params.subject)
    message["Date"] = format_datetime(from_text(context.created_at))
    message["Message-ID"] = f"<{context.task_id}@jobs>"
    message.set_content(params.body, cte="base64" if not params.body.isascii() else None)
    if services.settings.smtp_host:
        await _deliver(services.settings, message)
    else:
        await services.files.write(f"outbox/{context.task_id}.eml", message.as_bytes())


async def send_welcome(context: TaskContext, params: Account) -> None:
    """
    Greets a new user.
    """
    body = f"Hello {params.name}, your account is ready.\n"
    await send_email(context, Message(email=params.email, subject=f"Welcome, {params.name}", body=body))


async def _deliver(settings: Settings, message: EmailMessage) -> None:
    client = SMTPClient(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        timeout=settings.smtp_timeout,
        start_tls=settings.smtp_starttls,
        tls_context=ssl.create_default_context() if settings.smtp_starttls else None,
        username=settings.smtp_user or None,
        password=settings.smtp_password or None,
    )
    # Each step has its time, and so has the whole: a server that always says a little more would never end.
    async with asyncio.timeout(STEPS * settings.smtp_timeout):
        try:
            await client.connect()
            await client.send_message(message)
        except BaseException:
            # No goodbye: whoever was cancelled would wait for its answer.
            client.close()
            raise
        # It has taken the mail: how it says goodbye is no matter.
        with contextlib.suppress(SMTPException):
            await client.quit()
