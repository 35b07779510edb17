"""
Celery, RQ and Dramatiq: the ways past one machine. The row is the outbox, and the broker carries ids only.

Publishing blocks, and a frozen broker makes it block for long: it happens in a thread of its own, for the relay, and
never for a request. What a broker loses is published again; a message that comes twice finds its row taken.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from modern_fastapi.settings import RefusedToStart, Settings

from .base import Engine
from .relay import Relay, Undeliverable

if TYPE_CHECKING:
    from modern_fastapi.services import Services

T = TypeVar("T")

log = logging.getLogger(__name__)

PATIENCE = 10.0
QUEUE = "jobs"
# On RabbitMQ, Celery and Dramatiq declare their queues differently: under one name the second would be refused.
DRAMATIQ_QUEUE = "jobs.dramatiq"
# Seconds after which a broker may take a task for lost; the rows have timeouts of their own.
LONGEST_TASK = 3600
# For how many seconds RQ keeps a job that has ended. To keep none costs its worker a third more time for each job: it
# looks for whatever may hang on the job before it takes it away, instead of letting Redis do that.
KEPT = 10
DEFAULT_BROKER = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True)
class Publisher:
    """
    A connection to a broker, and how many messages wait there. All block, and belong to one thread.
    """

    publish: Callable[[Sequence[str]], None]
    depth: Callable[[], int]
    close: Callable[[], object]


def broker_url(settings: Settings) -> str:
    """
    Where the broker is.
    """
    return settings.broker or DEFAULT_BROKER


def make_broker_engine(services: Services, name: str) -> Engine:
    """
    The engine of this name. Raises ``RefusedToStart`` where its package is not installed.
    """
    require(name)
    return BrokerEngine(services, name, lambda: PUBLISHERS[name](services.settings))


def require(name: str) -> None:
    """
    Raises ``RefusedToStart`` with the line that installs what is missing.
    """
    if importlib.util.find_spec(name) is None:
        raise RefusedToStart(
            f"engine is {name!r}, and the package {name} is not installed: "
            f"run pip install '.[{name}]' in a checkout of bgserver, or choose another engine."
        )


class BrokerEngine:
    """
    Publishes the ids of due rows, for workers in other processes.
    """

    def __init__(self, services: Services, name: str, connect: Callable[[], Publisher]) -> None:
        self.name = name
        self._connect = connect
        self._publisher: Publisher | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._relay = Relay(services, name, self._deliver, patience=PATIENCE, depth=self._count)

    async def start(self, task_ids: Sequence[str]) -> None:
        self._relay.bell.ring()

    async def _deliver(self, task_ids: Sequence[str]) -> None:
        await self._ask(lambda publisher: publisher.publish(task_ids))

    async def _count(self) -> int:
        return await self._ask(lambda publisher: publisher.depth())

    async def _ask(self, what: Callable[[Publisher], T]) -> T:
        def ask() -> T:
            if self._publisher is None:
                self._publisher = self._connect()
            return what(self._publisher)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except Exception as error:
            # Each client has its own family of errors, and all of them mean that the rows wait.
            raise Undeliverable(f"{type(error).__name__}: {error}") from error

    async def run(self) -> None:
        await self._relay.run()

    async def close(self, grace: float) -> None:
        if self._publisher is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._thread, self._publisher.close)
            await asyncio.wait([closing], timeout=grace)
        # A publication under way ends by its own timeouts; the process need not wait for a frozen broker.
        self._thread.shutdown(wait=False, cancel_futures=True)


def _celery(settings: Settings) -> Publisher:
    from .celery_app import EXECUTE, make_celery

    app = make_celery(settings)

    def publish(task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            app.send_task(EXECUTE, args=[task_id], ignore_result=True)

    def depth() -> int:
        with app.connection_for_write() as connection:
            try:
                return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)
            except connection.channel_errors:
                return 0  # there is no such queue, which on Redis is an empty one

    return Publisher(publish, depth, app.close)


def _rq(settings: Settings) -> Publisher:
    from redis import Redis
    from rq import Queue

    connection = Redis.from_url(broker_url(settings), socket_timeout=2, socket_connect_timeout=1)
    queue = Queue(QUEUE, connection=connection)

    def publish(task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            queue.enqueue(
                "modern_fastapi.engines.rq_worker.execute",
                task_id,
                job_timeout=LONGEST_TASK,
                result_ttl=KEPT,
                failure_ttl=60,
            )

    return Publisher(publish, lambda: int(queue.count), connection.close)


def _dramatiq(settings: Settings) -> Publisher:
    from dramatiq import Message

    from .dramatiq_broker import ACTOR, make_broker

    broker = make_broker(settings)
    broker.declare_queue(DRAMATIQ_QUEUE)

    def publish(task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            message: Message[None] = Message(
                queue_name=DRAMATIQ_QUEUE, actor_name=ACTOR, args=(task_id,), kwargs={}, options={}
            )
            broker.enqueue(message)

    def depth() -> int:
        if hasattr(broker, "get_queue_message_counts"):
            return int(broker.get_queue_message_counts(DRAMATIQ_QUEUE)[0])
        counted: int = broker.do_qsize(DRAMATIQ_QUEUE)  # type: ignore[attr-defined]
        return counted

    return Publisher(publish, depth, broker.close)


PUBLISHERS: dict[str, Callable[[Settings], Publisher]] = {"celery": _celery, "rq": _rq, "dramatiq": _dramatiq}
