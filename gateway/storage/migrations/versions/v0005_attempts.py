"""What attempts of a request cost beside its own record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "usage_attempts",
        sa.Column("usage_id", sa.String(40), primary_key=True),
        sa.Column("attempt", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("verifier_ns", sa.BigInteger, nullable=False),
    )
