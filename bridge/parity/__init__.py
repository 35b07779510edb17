"""
Compares two sides, and says what follows from it: pure, no I/O, no clock, no dice.

- L{observe}: what is seen of one answer.
"""
