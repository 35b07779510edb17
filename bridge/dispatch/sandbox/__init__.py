"""
Second instances on copies of the stores, which are fed every write and are never
seen by anyone.

- L{copies}: what a copied store is, and how the policy declares one.
- L{sqlite}, L{folders}, L{postgresql}: the stores that can be copied.
- L{feed}: writes in the order of their answers, what each did, and when to seed anew.
"""

from bridge.dispatch.sandbox.copies import Copy, copies_of
from bridge.dispatch.sandbox.feed import Instance, Sandbox, SandboxFeed

__all__ = ["Copy", "Instance", "Sandbox", "SandboxFeed", "copies_of"]
