-- The schema that both applications share. Times are UTC text, 2026-11-21T20:00:00.000000Z.
CREATE TABLE schema_version (version INTEGER NOT NULL)
--;
CREATE TABLE users (
    user_id    TEXT PRIMARY KEY,
    email      TEXT NOT NULL,
    email_key  TEXT NOT NULL UNIQUE,  -- the address in lower case: one account whatever its case
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE directory (
    user_id    TEXT PRIMARY KEY,
    email      TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE subscriptions (
    email_key    TEXT PRIMARY KEY,
    email        TEXT NOT NULL,
    confirmed_at TEXT NOT NULL
)
--;
CREATE TABLE items (
    item_id    TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE uploads (
    upload_id  TEXT PRIMARY KEY,
    filename   TEXT NOT NULL,         -- the client's name, for show; the name on disk is upload_id
    size       BIGINT NOT NULL,
    task_id    TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE exports (
    export_id  TEXT PRIMARY KEY,
    format     TEXT NOT NULL,
    task_id    TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE tasks (
    seq              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE,
    name             TEXT NOT NULL,
    params           TEXT NOT NULL,
    status           TEXT NOT NULL DEFAULT 'PENDING'
                     CHECK (status IN ('PENDING', 'RUNNING', 'RETRY', 'SUCCESS', 'FAILURE', 'CANCELLED')),
    engine           TEXT NOT NULL DEFAULT 'table',
    unique_key       TEXT UNIQUE,
    after_id         TEXT,            -- claimable only once this task has ended, whatever it ended as
    priority         INTEGER NOT NULL DEFAULT 0,
    run_at           TEXT NOT NULL,
    attempts         INTEGER NOT NULL DEFAULT 0,   -- starts
    failures         INTEGER NOT NULL DEFAULT 0,   -- errors that the function raised
    rescues          INTEGER NOT NULL DEFAULT 0,   -- requeues after a process died
    max_attempts     INTEGER NOT NULL DEFAULT 3,
    timeout          DOUBLE PRECISION,
    owner            TEXT,            -- boot id of the process that runs it
    heartbeat        BIGINT NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    progress         DOUBLE PRECISION NOT NULL DEFAULT 0,
    result           TEXT,
    error            TEXT,
    created_at       TEXT NOT NULL,
    started_at       TEXT,
    finished_at      TEXT,
    expires_at       TEXT
)
--;
CREATE INDEX tasks_claimable ON tasks (priority DESC, run_at, seq) WHERE status IN ('PENDING', 'RETRY')
--;
CREATE INDEX tasks_running ON tasks (owner) WHERE status = 'RUNNING'
--;
CREATE INDEX tasks_after ON tasks (after_id) WHERE after_id IS NOT NULL
--;
CREATE TABLE events (
    seq      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id  TEXT NOT NULL,
    name     TEXT NOT NULL,
    status   TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at       TEXT NOT NULL
)
--;
CREATE TABLE limits (
    name        TEXT PRIMARY KEY,     -- a task's name
    concurrency INTEGER,              -- how many may run at once; NULL: no limit
    rate        DOUBLE PRECISION,                 -- starts a second; NULL: no limit
    paused      INTEGER NOT NULL DEFAULT 0
)
--;
CREATE TABLE processes (
    boot_id    TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    start_time TEXT NOT NULL,         -- the kernel's start time of the pid, so that a reused pid is not taken for it
    side       TEXT NOT NULL,
    beats      BIGINT NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL
)
--;
CREATE TABLE loops (
    name       TEXT PRIMARY KEY,
    owner      TEXT,                  -- 'legacy:BOOT' or 'modern:BOOT'
    epoch      BIGINT NOT NULL DEFAULT 0,  -- the fence: writes of a loop name the epoch they were started with
    state      TEXT NOT NULL DEFAULT 'stopped'
               CHECK (state IN ('running', 'stopped', 'failed', 'fenced')),
    last_tick  TEXT,
    ticks      BIGINT NOT NULL DEFAULT 0,
    errors     BIGINT NOT NULL DEFAULT 0,
    last_error TEXT
)
--;
INSERT INTO loops (name) VALUES ('cache_refresh'), ('cleanup'), ('consumer'), ('daily_report'), ('rescue')
--;
CREATE TABLE ticks (
    key          TEXT PRIMARY KEY,    -- loop@scheduled time
    loop         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    epoch        BIGINT NOT NULL,
    committed_at TEXT NOT NULL
)
--;
CREATE TABLE reports (
    day        TEXT PRIMARY KEY,
    body       TEXT NOT NULL,
    created_at TEXT NOT NULL
)
--;
CREATE TABLE cache (
    key          TEXT PRIMARY KEY,
    value        TEXT NOT NULL,
    refreshed_at TEXT NOT NULL
)
--;
CREATE FUNCTION task_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A sequence is drawn in the order of the inserts, not of the commits: a reader that resumes by seq would
    -- skip a row whose transaction was slow. The lock lasts until the commit, so that the two orders are one.
    -- The triggers are deferred: the lock is the last that a transaction takes, so nobody waits for a row while
    -- holding it, and transactions that touch the same rows can't wait for each other in a ring.
    PERFORM pg_advisory_xact_lock(7236834521);
    INSERT INTO events (task_id, name, status, attempts, at)
    VALUES (NEW.id, NEW.name, NEW.status, NEW.attempts,
            to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
    PERFORM pg_notify('jobs', NEW.status);
    RETURN NEW;
END
$$
--;
CREATE CONSTRAINT TRIGGER tasks_inserted AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION task_event()
--;
CREATE CONSTRAINT TRIGGER tasks_changed AFTER UPDATE OF status ON tasks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION task_event()
