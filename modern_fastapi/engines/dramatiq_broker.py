"""
The Dramatiq broker that the settings name: Redis or RabbitMQ.
"""

from collections.abc import Callable

import dramatiq
from dramatiq.middleware import default_middleware

from modern_fastapi.settings import Settings

from .brokers import broker_url

ACTOR = "execute"


def make_broker(settings: Settings) -> dramatiq.Broker:
    """
    A broker without Dramatiq's own retries: the row knows when to try again.
    """
    url = broker_url(settings)
    middleware = [each() for each in default_middleware if each.__name__ not in ("Retries", "Prometheus")]
    if url.startswith("amqp"):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=url, middleware=middleware, confirm_delivery=True)
    from dramatiq.brokers.redis import RedisBroker

    make: Callable[..., dramatiq.Broker] = RedisBroker
    return make(url=url, middleware=middleware, socket_timeout=2, socket_connect_timeout=1)
