"""
Owns the tables of the state database and their version.

Every name starts with C{bgserver_}, so that the tables may lie in a database that
somebody else uses too.

Refuses: a schema of a later version; and to guess, where a table is damaged.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = 1

metadata = sa.MetaData()

meta = sa.Table(
    "bgserver_meta",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""
"schema", "changes", the counter that each change of a stage raises, and "born", a number that
no other state has.
"""

stages = sa.Table(
    "bgserver_stages",
    metadata,
    sa.Column("kind", sa.String(10), primary_key=True),
    sa.Column("name", sa.String(500), primary_key=True),
    sa.Column("stage", sa.String(20), nullable=False),
    sa.Column("weight", sa.Float, nullable=False),
)

audit = sa.Table(
    "bgserver_audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("name", sa.String(500), nullable=False, index=True),
    sa.Column("old_stage", sa.String(20), nullable=False),
    sa.Column("old_weight", sa.Float, nullable=False),
    sa.Column("new_stage", sa.String(20), nullable=False),
    sa.Column("new_weight", sa.Float, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("evidence", sa.Integer),
    sqlite_autoincrement=True,
)

leases = sa.Table(
    "bgserver_leases",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("holder", sa.String(200)),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("renewals", sa.BigInteger, nullable=False),
)

counts = sa.Table(
    "bgserver_counts",
    metadata,
    sa.Column("route", sa.String(500), primary_key=True),
    sa.Column("identity", sa.String(80), primary_key=True),
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("first_at", sa.Float(53), nullable=False),
    sa.Column("last_at", sa.Float(53), nullable=False),
)

fingerprints = sa.Table(
    "bgserver_fingerprints",
    metadata,
    sa.Column("route", sa.String(500), primary_key=True),
    sa.Column("identity", sa.String(80), primary_key=True),
    sa.Column("fingerprint", sa.String(80), primary_key=True),
    sa.Column("kind", sa.String(80), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("first_at", sa.Float(53), nullable=False),
    sa.Column("last_at", sa.Float(53), nullable=False),
)

samples = sa.Table(
    "bgserver_samples",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("route", sa.String(500), nullable=False),
    sa.Column("identity", sa.String(80), nullable=False),
    sa.Column("fingerprint", sa.String(80), nullable=False),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("size", sa.Integer, nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("bgserver_samples_of", "route", "identity", "fingerprint"),
    sqlite_autoincrement=True,
)

proposals = sa.Table(
    "bgserver_proposals",
    metadata,
    sa.Column("route", sa.String(500), primary_key=True),
    sa.Column("rule", sa.String(500), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),
    sa.Column("share", sa.Float(53), nullable=False),
    sa.Column("pairs", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
)

evidence = sa.Table(
    "bgserver_evidence",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("route", sa.String(500), nullable=False),
    sa.Column("identity", sa.String(80), nullable=False),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

ESSENTIAL = tuple(metadata.sorted_tables)
"""
What every state has since its first start.
"""

servers = sa.Table(
    "bgserver_servers",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("force_legacy", sa.Boolean, nullable=False),
)
"""
Added to schema 1 later: earlier versions don't look at it, and a start makes it where it is missing.
"""
