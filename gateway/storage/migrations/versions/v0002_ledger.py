"""Tenants as rows, limits and expiry of keys, the usage ledger and the gateways that write it."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

LIMITS = ("expires", "requests_per_minute", "tokens_per_minute", "concurrent", "monthly_spend")


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO tenants (name, title, created) SELECT tenant, '', min(created) FROM keys GROUP BY tenant")
    bind = op.get_bind()
    if not bind.execute(sa.select(tenants.c.name).where(tenants.c.name == "default")).first():
        op.bulk_insert(tenants, [{"name": "default", "title": "", "created": int(time.time())}])
    _extend_keys(bind)
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
    )
    _create_usage()


def _extend_keys(bind: sa.Connection) -> None:
    # SQLite adds no constraint to a table: Alembic makes a new one and copies. The old one's unique had no name there.
    named = {"uq": "%(table_name)s_%(column_0_name)s_key"}
    with op.batch_alter_table("keys", naming_convention=named) as keys:
        if bind.dialect.name == "sqlite":
            keys.drop_constraint("keys_hash_key", type_="unique")
            keys.create_unique_constraint("keys_hash_key", ["hash"])
        for name in LIMITS:
            keys.add_column(sa.Column(name, sa.BigInteger))
        keys.create_foreign_key("keys_tenant_fkey", "tenants", ["tenant"], ["name"])


def _create_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("endpoint", sa.String(32), nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("choices", sa.Integer, nullable=False),
        sa.Column("first_token", sa.BigInteger),
        sa.Column("ended", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("drafted", sa.BigInteger),
        sa.Column("accepted", sa.BigInteger),
        sa.Column("verifier_accepted", sa.BigInteger),
        sa.Column("mode", sa.String(16)),
        sa.Column("verifier_ns", sa.BigInteger),
        sa.Column("baseline_ns", sa.BigInteger),
        sa.Column("agent", sa.String(64)),
        sa.Column("agent_tenant", sa.String(255)),
        sa.Column("agent_owner", sa.String(255)),
        sa.Column("agent_ns", sa.BigInteger),
        sa.Column("verifier_cost", sa.BigInteger),
        sa.Column("edge_cost", sa.BigInteger),
        sa.Column("baseline_cost", sa.BigInteger),
        sa.Column("credit", sa.BigInteger),
    )
    op.create_index("usage_started", "usage", ["started"])
    op.create_index("usage_key_started", "usage", ["key_id", "started"])
    op.create_index("usage_tenant_started", "usage", ["tenant", "started"])
    op.create_index("usage_outcome_gateway", "usage", ["outcome", "gateway"])
