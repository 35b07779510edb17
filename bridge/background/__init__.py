"""
Background loops: one owner at any moment, and moved between the stacks like routes.

- L{ownership}: the rules, pure: stages, moves, the next step.
- L{runners}: how a loop is started and stopped on each side.
- L{supervisor}: one loop in one process: its lease, its runner, its restarts.
- L{leases}: what it asks of leases.
- L{observing}: the dry run of a modern loop beside the legacy one.
- L{pairing}: which ticks of the two belong together, and whether they are the same; pure.

Import from the modules: the pure ones must not bring the others with them.
"""
