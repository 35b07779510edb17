"""
Tasks that write one line or one row: notifications, the application's log, the directory, subscriptions.
"""

from pydantic import BaseModel
from sqlalchemy import update

from modern_fastapi.clock import as_text
from modern_fastapi.schema import DirectoryEntry, Subscription

from .context import TaskContext


class Notification(BaseModel):
    """
    A message for one address.
    """

    email: str
    message: str


class LogLine(BaseModel):
    """
    One line of the application's log.
    """

    message: str


class NewUser(BaseModel):
    """
    Whom the administrator should hear of.
    """

    user_id: str
    email: str


class Account(NewUser):
    """
    A user with a name.
    """

    name: str


class Address(BaseModel):
    """
    One e-mail address.
    """

    email: str


async def write_notification(context: TaskContext, params: Notification) -> None:
    """
    A line in notifications.log.
    """
    line = {"email": params.email, "message": params.message, "task_id": context.task_id}
    await context.services.files.append("notifications.log", line)


async def write_log(context: TaskContext, params: LogLine) -> None:
    """
    A line in app.log.
    """
    await context.services.files.append("app.log", {"message": params.message, "task_id": context.task_id})


async def notify_admin(context: TaskContext, params: NewUser) -> None:
    """
    A line in admin.log.
    """
    line = {"user_id": params.user_id, "email": params.email, "task_id": context.task_id}
    await context.services.files.append("admin.log", line)


async def create_directory_entry(context: TaskContext, params: Account) -> None:
    """
    The user's row in the directory; a second run finds it there.
    """
    services = context.services
    values = {"email": params.email, "name": params.name}
    async with services.database.write() as connection:
        insert = services.database.insert(DirectoryEntry).values(
            user_id=params.user_id, created_at=as_text(services.clock.now()), **values
        )
        await connection.execute(insert.on_conflict_do_nothing(index_elements=["user_id"]))
        await connection.execute(
            update(DirectoryEntry).where(DirectoryEntry.user_id == params.user_id).values(**values)
        )


async def confirm_subscription(context: TaskContext, params: Address) -> None:
    """
    The address's row among the subscriptions; the latest confirmation counts.
    """
    services = context.services
    values = {"email": params.email, "confirmed_at": as_text(services.clock.now())}
    async with services.database.write() as connection:
        insert = services.database.insert(Subscription).values(email_key=params.email.lower(), **values)
        await connection.execute(insert.on_conflict_do_update(index_elements=["email_key"], set_=values))
