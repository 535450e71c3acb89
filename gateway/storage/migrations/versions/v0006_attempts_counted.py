"""What a row's record has of each attempt, and when an attempt beside it was recorded."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("usage", sa.Column("attempts", sa.Text))
    now = str(time.time_ns() // 10**6)
    op.add_column("usage_attempts", sa.Column("recorded", sa.BigInteger, nullable=False, server_default=now))
    op.create_index("usage_attempts_recorded", "usage_attempts", ["recorded"])
