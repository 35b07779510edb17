"""
Messages of all kinds: each is a task, and the answer doesn't wait for it.
"""

from fastapi import APIRouter

from modern_fastapi.dependencies import Tasks
from modern_fastapi.errors import problems
from modern_fastapi.fields import Message, PathEmail
from modern_fastapi.models import Mail, Queued, QueuedFor, Subscriber
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.tasks import mail, records

router = APIRouter(route_class=StrictRoute, default_response_class=Json)


@router.post("/send-notification/{email}", status_code=202, responses=problems("bad_parameter"))
async def send_notification(email: PathEmail, message: Message, tasks: Tasks) -> Queued:
    """
    Writes one line to the notification log.
    """
    task_id = await tasks.submit("notification.write", records.Notification(email=email, message=message))
    return Queued(message="notification queued", task_id=task_id)


@router.post("/send-email", status_code=202, responses=problems(body=True))
async def send_email(wanted: Mail, tasks: Tasks) -> QueuedFor:
    """
    Sends a mail, and tries again where the server refuses it.
    """
    task_id = await tasks.submit(
        "email.send", mail.Message(email=wanted.email, subject=wanted.subject, body=wanted.body)
    )
    return QueuedFor(message="email queued", email=wanted.email, task_id=task_id)


@router.post("/subscribe", status_code=202, responses=problems(body=True))
async def subscribe(subscriber: Subscriber, tasks: Tasks) -> QueuedFor:
    """
    Confirms a subscription.
    """
    task_id = await tasks.submit("subscription.confirm", records.Address(email=subscriber.email))
    return QueuedFor(message="subscription queued", email=subscriber.email, task_id=task_id)


@router.post("/log", status_code=202, responses=problems("bad_parameter"))
async def log(message: Message, tasks: Tasks) -> Queued:
    """
    Writes one line to the application's log.
    """
    task_id = await tasks.submit("log.write", records.LogLine(message=message))
    return Queued(message="log queued", task_id=task_id)
