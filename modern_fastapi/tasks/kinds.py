"""
All task functions by name: what parameters each takes, and how often it may fail.

The names are the contract between processes: a row says ``email.send``, and whichever process claims it looks here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from . import documents, mail, numbers, records
from .context import TaskContext

Function = Callable[[TaskContext, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Kind:
    """
    One kind of task. ``timeout`` and ``expires_in`` are in seconds; None: no limit.
    """

    name: str
    params: type[BaseModel]
    function: Function
    max_attempts: int = 3
    timeout: float | None = None
    expires_in: float | None = None


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("notification.write", records.Notification, records.write_notification),
            Kind("log.write", records.LogLine, records.write_log),
            Kind("admin.notify", records.NewUser, records.notify_admin),
            Kind("directory.create", records.Account, records.create_directory_entry),
            Kind("subscription.confirm", records.Address, records.confirm_subscription),
            Kind("email.send", mail.Message, mail.send_email, max_attempts=5),
            Kind("email.welcome", records.Account, mail.send_welcome, max_attempts=5),
            Kind("file.process", documents.UploadedFile, documents.process_file),
            Kind("export.data", documents.WantedExport, documents.export_data),
            Kind("files.cleanup", documents.Age, documents.clean_up_files),
            Kind("data.process", numbers.Data, numbers.process_data),
            Kind("compute.primes", numbers.Bound, numbers.count_primes),
            Kind("api.unstable", numbers.Failures, numbers.call_unstable),
        )
    }
)
