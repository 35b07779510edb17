"""
The operator's API, on a listener of its own.

- L{control}: what it asks of the process that it runs in.
- L{api}: the routes, documented by their own OpenAPI document.
- L{models}: their shapes.
- L{board}: where everything stands, for a browser.
- L{page}: the API's document, for a browser; L{frame}: what both pages stand in.
- L{guard}: who may speak to it.
- L{metrics}: the text that Prometheus reads.

L{api} is imported by its name, where the API is served: FastAPI takes a third of the
start, and a server whose admin is off, and modern isn't FastAPI, never needs it.
"""

from bridge.admin.control import Control
from bridge.admin.guard import TOKEN, token_for
from bridge.admin.metrics import Metric

__all__ = ["TOKEN", "Control", "Metric", "token_for"]
