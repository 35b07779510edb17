# The job server alone: twistd -ny legacy_twisted/server.tac
# Settings are JOBS_* in the environment, see settings.py.

import os
import sys

from twisted.application import service
from twisted.internet.error import CannotListenError

# twistd doesn't look for modules where it was started.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from legacy_twisted.database import DatabaseError
from legacy_twisted.server import make_service
from legacy_twisted.settings import SettingsError


class Alone(service.MultiService):
    """
    Says in one line what keeps the server from starting.
    """

    def privilegedStartService(self):
        try:
            service.MultiService.privilegedStartService(self)
        except CannotListenError as error:
            raise SystemExit(f"jobs: {error}; see the setting `listen`") from None


application = service.Application("jobs")
try:
    alone = Alone()
    make_service().setServiceParent(alone)
    alone.setServiceParent(application)
except (SettingsError, DatabaseError) as error:
    raise SystemExit(f"jobs: {error}") from None
