"""
What runs without being asked.

- ``fence``      who owns a loop; the row that the loop's writes have to pass
- ``tenure``     one loop from taking its fence to leaving it, and its restart when it dies
- ``rehearsal``  a loop's dry run, which tells what it would do and writes nothing
- ``consumer``   claims due rows and runs them
- ``rescue``     puts back what a dead process left running
- ``daily_report``, ``cache_refresh``, ``cleanup``   the ticking ones
- ``ticks``      what these share
- ``once``       one tick of them, for Celery's Beat
"""
