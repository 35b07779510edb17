-- Which attempt a broker has a message for, so that a server that starts again doesn't send all of them again.
ALTER TABLE tasks ADD COLUMN handed INTEGER NOT NULL DEFAULT 0
--;
CREATE INDEX tasks_to_hand_over ON tasks (engine, priority DESC, run_at, seq)
    WHERE status IN ('PENDING', 'RETRY') AND engine <> 'table' AND handed <= attempts
