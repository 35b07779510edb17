"""
The loop C{rescue}: gives back what a dead process left running.

Nobody's clock is trusted: a task is stranded when its heartbeat hasn't
changed for as long as the lease by our own monotonic clock, or at once when
its process has died on this host.
"""

from legacy_twisted.loops import PeriodicLoop
from legacy_twisted.presence import isDead
from legacy_twisted.tasks import MAX_RESCUES, later, timestamp

BEAT = 5.0  # seconds between two signs of life of a loop that has nothing to write

RUNNING = (
    "SELECT id, owner, attempts, heartbeat, rescues, cancel_requested FROM tasks"
    " WHERE status = 'RUNNING'"
)
STRAY = (
    " WHERE engine IN ('inline', 'thread', 'asyncio')"
    " AND status IN ('PENDING', 'RETRY') AND run_at < :late"
    " AND (after_id IS NULL OR NOT EXISTS (SELECT 1 FROM tasks b"
    " WHERE b.id = tasks.after_id AND b.status IN ('PENDING', 'RUNNING', 'RETRY')))"
)


class Rescue(PeriodicLoop):
    """
    The service C{rescue}.
    """

    name = "rescue"
    interval = 1.0
    _beaten = float("-inf")

    def __init__(self, jobs):
        PeriodicLoop.__init__(self, jobs)
        self._seen = {}

    def work(self):
        # No key keeps this tick single; its name is only for who compares.
        tick = self.key(self.jobs.now())
        looked = self.before(tick, now=self.reactor.seconds())
        looked.addCallback(lambda _: self.database.read(self.idle))
        looked.addCallback(lambda idle: None if idle else self.database.write(self.round))
        return looked.addCallback(self._rescued, tick)

    def _rescued(self, effects, tick):
        if effects:
            self.log.info("{count} stranded tasks were given back", count=len(effects))
            self.tell(effects, tick)
            self.jobs.work()

    def idle(self, connection):
        """
        Whether there is nothing to write.
        """
        if self.reactor.seconds() - self._beaten >= BEAT:
            return False
        dead = self.dead(connection)
        stranded = list(self.stranded(connection.rows(RUNNING), dead))
        stray = connection.row("SELECT id FROM tasks" + STRAY + " LIMIT 1", late=self.late())
        return not dead and not stranded and stray is None

    def round(self, connection):
        self.fence.check(connection, ticks=True)
        running = connection.rows(RUNNING)
        dead = self.dead(connection)
        effects = [
            ("row", f"tasks:{row['id']}", {"attempts": row["attempts"]})
            for row in self.stranded(running, dead)
            if self.giveBack(connection, row)
        ]
        self.adopt(connection)
        self.forget(connection, dead)
        self.fence.ticked(connection)
        self._beaten = self.reactor.seconds()
        return effects

    def dead(self, connection):
        rows = connection.rows("SELECT boot_id, host, pid, start_time FROM processes")
        return {row["boot_id"] for row in rows if isDead(row)}

    def stranded(self, running, dead):
        now = self.reactor.seconds()
        seen, self._seen = self._seen, {}
        for row in running:
            key = row["id"], row["attempts"], row["heartbeat"]
            since = self._seen[key] = seen.get(key, now)
            if row["owner"] in dead or now - since >= self.jobs.settings.lease:
                yield row

    def giveBack(self, connection, row):
        # PostgreSQL: who ends this very task holds its row, and waits for
        # the lock of the events that our other rows may have given us.
        mine = "SELECT id FROM tasks t WHERE t.id = :id" + self.database.engine.skipLocked
        if connection.row(mine, id=row["id"]) is None:
            return 0
        rescues = row["rescues"] + 1
        error = None
        if row["cancel_requested"]:
            status = "CANCELLED"
        elif rescues >= MAX_RESCUES:
            status, error = "FAILURE", f"the process died {rescues} times"
        else:
            status = "PENDING"
        now = timestamp()
        return connection.execute(
            "UPDATE tasks SET status = :status, owner = NULL, rescues = :rescues,"
            " error = coalesce(:error, error), run_at = :now, finished_at = :finished"
            " WHERE id = :id AND attempts = :attempts AND heartbeat = :heartbeat"
            " AND status = 'RUNNING'",
            status=status,
            rescues=rescues,
            error=error,
            now=now,
            finished=None if status == "PENDING" else now,
            id=row["id"],
            attempts=row["attempts"],
            heartbeat=row["heartbeat"],
        )

    def adopt(self, connection):
        """
        What was meant to be run by its own process, and wasn't, goes to the
        table: the process has ended before it could begin.
        """
        connection.execute("UPDATE tasks SET engine = 'table'" + STRAY, late=self.late())

    def late(self):
        return later(-self.jobs.settings.lease)

    def forget(self, connection, dead):
        for boot in dead:
            connection.execute(
                "DELETE FROM processes WHERE boot_id = :boot AND NOT EXISTS"
                " (SELECT 1 FROM tasks WHERE owner = :boot AND status = 'RUNNING')",
                boot=boot,
            )
