"""
What users test their applications with.

- L{plugin}: a pytest plugin that runs Deferred-side tests on the bridged reactor, and leaves all others alone.

Importing this imports no pytest and installs no reactor.
"""
