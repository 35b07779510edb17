"""
What an RQ worker runs: ``rq worker jobs --url … -c modern_fastapi.engines.rq_worker``. RQ forks for each job, so that
each makes its own ``Worker``; ``-c`` has the parent import this module, which its children then need not do again.
"""

from modern_fastapi.settings import load_settings

from .worker import Worker


def execute(task_id: str) -> None:
    """
    Runs one row, with the settings of the environment.
    """
    with Worker(load_settings()) as worker:
        worker.execute(task_id)
