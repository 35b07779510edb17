# The job server alone: twistd -ny legacy_twisted/server.tac
# Settings are JOBS_* in the environment, see settings.py.

import os
import sys

from twisted.application import service

# twistd doesn't look for modules where it was started.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from legacy_twisted.database import DatabaseError
from legacy_twisted.server import make_service
from legacy_twisted.settings import SettingsError

application = service.Application("jobs")
try:
    make_service().setServiceParent(application)
except (SettingsError, DatabaseError) as error:
    raise SystemExit("jobs: %s" % error) from None
