"""
Owns that one log has everything: Twisted's and C{logging}'s, whichever of the two the
process writes.

Under twistd, what is said through C{logging} goes on into Twisted's log; under uvicorn
it is the other way round.  Both only where nobody has made other arrangements.

Refuses: formats, files and levels of other people's loggers.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from twisted.logger import ILogObserver, Logger, LogLevel, STDLibLogObserver, globalLogBeginner

OURS = ("bridge", "bgserver")
"""
The loggers whose notes an operator wants to see, not only their warnings.
"""


class _ToTwisted(logging.Handler):
    """
    Says again through Twisted what was said through C{logging}.
    """

    def emit(self, record: logging.LogRecord) -> None:
        level = next(
            (name for floor, name in _LEVELS if record.levelno >= floor),
            LogLevel.debug,
        )
        fields: dict[str, Any] = {"text": record.getMessage()}
        text = "{text}"
        if record.exc_info:
            formatter = self.formatter or logging.Formatter()
            fields["trace"] = formatter.formatException(record.exc_info)
            text = "{text}\n{trace}"
        Logger(namespace=record.name).emit(level, text, **fields)


_LEVELS = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)


def into_twisted() -> None:
    """
    Under twistd: C{logging} ends in Twisted's log, unless it ends somewhere already.
    """
    if logging.root.handlers:
        return
    logging.root.addHandler(_ToTwisted())
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)


def into_logging() -> None:
    """
    Under uvicorn: Twisted's log ends in C{logging}, where uvicorn's own lines do.
    """
    # Not stdout and stderr: what is printed there would come back as a log for ever.
    observer = cast("ILogObserver", STDLibLogObserver(name="twisted"))
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    handlers = logging.getLogger("uvicorn").handlers
    for name in (*OURS, "twisted"):
        logger = logging.getLogger(name)
        if logging.root.handlers or logger.handlers:
            continue
        logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
