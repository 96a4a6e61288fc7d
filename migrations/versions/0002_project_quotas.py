"""limits of a project

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = ("quota_bytes", "quota_rows", "quota_jobs", "quota_models")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("projects", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    # Not in batch mode: on SQLite that drops and remakes the table, which others refer to.
    for name in reversed(COLUMNS):
        op.drop_column("projects", name)
