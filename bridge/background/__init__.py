"""
Background loops: one owner at any moment, and moved between the stacks like routes.

- L{ownership}: the rules, pure: stages, moves, the next step.
- L{runners}: how a loop is started and stopped on each side.
- L{supervisor}: one loop in one process: its lease, its runner, its restarts.

Import from the modules: the pure one must not bring the others with it.
"""
