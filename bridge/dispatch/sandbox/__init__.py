"""
Second instances on copies of the stores, which are fed every write and are never
seen by anyone.

- L{copies}: what a copied store is, and how the policy declares one.
- L{sqlite}, L{folders}, L{postgresql}: the stores that can be copied.
- L{instance}, L{feed}: writes in the order of their answers, and when to seed anew.
- L{watch}, L{net}, L{traces}: what a write did, in its own ids, and whose change a change is.
"""

from bridge.dispatch.sandbox.copies import Copy, copies_of
from bridge.dispatch.sandbox.feed import SandboxFeed
from bridge.dispatch.sandbox.instance import Instance, Pace, Sandbox

__all__ = ["Copy", "Instance", "Pace", "Sandbox", "SandboxFeed", "copies_of"]
