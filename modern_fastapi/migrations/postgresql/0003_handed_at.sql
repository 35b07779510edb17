-- When the broker was given its message: one that later ones have overtaken is lost.
ALTER TABLE tasks ADD COLUMN handed_at TEXT
