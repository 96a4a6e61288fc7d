"""Brings the configured database to the newest schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations
from app.settings import Settings


def alembic_config(settings: Settings) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__path__[0])).replace("%", "%%"))
    config.attributes["settings"] = settings
    return config


def upgrade(settings: Settings) -> None:
    """Runs every outstanding migration; doing so again changes nothing."""
    command.upgrade(alembic_config(settings), "head")


def revision_of(connection: Connection) -> str:
    """The newest migration that the database has; empty where it has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def is_current(settings: Settings, engine: Engine) -> bool:
    """Whether the database has the newest schema."""
    head = ScriptDirectory.from_config(alembic_config(settings)).get_current_head()
    with engine.connect() as connection:
        return revision_of(connection) == head
