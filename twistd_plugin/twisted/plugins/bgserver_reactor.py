"""
Makes the bridged reactor known to every twistd command: `twistd --reactor=bgserver …`.

Refuses: to import the reactor, or anything of this package, before it is chosen.
"""

from twisted.application.reactors import Reactor

bgserver = Reactor("bgserver", "bridge.loop", "asyncio or uvloop, shared by Twisted and asyncio code.")
