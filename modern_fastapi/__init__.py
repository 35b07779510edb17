"""
The job server as a FastAPI application: what is left when the move is over.

- ``app``          puts one application together (``create_app``)
- ``settings``     every setting, its default and its check
- ``models``, ``fields``, ``errors``   what may come in, what goes out, and how a request is refused
- ``requests``, ``middleware``         reading a body strictly; the plain ASGI layers around the routes
- ``routes/``      the HTTP routes, one module for each subject
- ``uploads``, ``downloads``, ``events``   the three routes that stream
- ``schema``, ``database``, ``migrate``    the tables, their transactions, and the SQL files below ``migrations/``
- ``tasks/``       work that outlives its request: rows, the functions that they name, and who runs them
- ``engines/``     the ways to run a row: table, inline, asyncio, thread, Celery, RQ, Dramatiq
- ``loops/``       what runs without being asked: consumer, rescue, daily_report, cache_refresh, cleanup

It imports no Twisted, and nothing of the application that it replaces.
"""
