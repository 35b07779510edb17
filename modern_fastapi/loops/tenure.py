"""
One loop from taking its fence to leaving it, and, where the application is on its own, its restart when it dies.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from modern_fastapi.services import Services

from .fence import Fence, Fenced

log = logging.getLogger(__name__)

Body = Callable[[Services, Fence], Awaitable[None]]

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
FENCED_PAUSE = 5.0


async def hold(services: Services, name: str, body: Body, epoch: int | None = None) -> None:
    """
    Takes the loop's fence, runs its body until it is cancelled, and says how it ended.

    Cancelling it waits for the running tick. Raises ``Fenced`` where another owner has a higher epoch.
    """
    fence = await Fence.take(services.database, services.clock, name, services.owner, epoch)
    log.info("loop %s runs here, epoch %d", name, fence.epoch)
    try:
        await body(services, fence)
    except Fenced as refused:
        log.warning("loop %s ends here: %s", name, refused)
        await fence.leave("fenced")
        raise
    except asyncio.CancelledError:
        # Whatever becomes of the note: another error in its place would undo the cancellation.
        try:
            await fence.leave("stopped")
        except Exception as error:
            log.warning("loop %s has stopped, and it could not be written: %s", name, error)
        raise
    except Exception as error:
        log.exception("loop %s died", name)
        await fence.failed(error)
        await fence.leave("failed")
        raise
    else:
        await fence.leave("stopped")


async def keep(loop: Callable[[int | None], Awaitable[None]], name: str) -> None:
    """
    Runs a loop for as long as the application lives: when it dies it comes back, after a growing pause.
    """
    pause = FIRST_PAUSE
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await loop(None)
        except Fenced:
            pause = FENCED_PAUSE
        except Exception:
            log.exception("loop %s will be started again", name)
        if asyncio.get_running_loop().time() - started > LONGEST_PAUSE:
            pause = FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
