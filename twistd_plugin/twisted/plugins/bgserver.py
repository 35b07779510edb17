"""
Tells twistd that there is a command `bgserver`, and nothing more.

Twisted imports this module whenever it lists its plugins, so it must stay cheap, and must not import a reactor.
"""

from twisted.application.service import ServiceMaker

bgserver = ServiceMaker(
    "bgserver",
    "twistd_plugin.service",
    "Serve a Twisted web application and its FastAPI successor together, moving one route at a time.",
    "bgserver",
)
