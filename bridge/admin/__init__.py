"""
The operator's API, on a listener of its own.

- L{control}: what it asks of the process that it runs in.
- L{api}: the routes, documented by their own OpenAPI document.
- L{models}: their shapes.
- L{guard}: who may speak to it.
- L{metrics}: the text that Prometheus reads.
"""

from bridge.admin.api import create_admin, create_api
from bridge.admin.control import Control
from bridge.admin.guard import TOKEN, token_for
from bridge.admin.metrics import Metric

__all__ = ["TOKEN", "Control", "Metric", "create_admin", "create_api", "token_for"]
