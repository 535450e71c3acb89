"""Whether a row's verifier time is an estimate, because its gateway was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("usage", sa.Column("estimated", sa.Boolean))
