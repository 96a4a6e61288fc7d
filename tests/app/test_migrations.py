"""Migrations on both databases: up, down, up again, and equal to the tables in code."""

import pytest
from alembic import command
from sqlalchemy import inspect, select

from app.db import Database
from app.migrate import alembic_config, is_current, upgrade
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import Base, Project


@pytest.fixture
def bare_settings(settings: Settings) -> Settings:
    """A database from which every migration was undone."""
    command.downgrade(alembic_config(settings), "base")
    return settings


def _tables(settings: Settings) -> set[str]:
    database = Database(settings)
    try:
        return set(inspect(database.engine).get_table_names())
    finally:
        database.dispose()


def test_downgrade_removes_every_table_when_run_to_the_base(bare_settings: Settings):
    assert not _tables(bare_settings) & set(Base.metadata.tables)


def test_upgrade_makes_every_table_and_the_default_project_when_run_again(bare_settings: Settings):
    upgrade(bare_settings)
    assert set(Base.metadata.tables) <= _tables(bare_settings)
    database = Database(bare_settings)
    with database.session(read_only=True) as session:
        assert session.scalars(select(Project.id)).all() == [DEFAULT_PROJECT]
    assert is_current(bare_settings, database.engine)
    database.dispose()


def test_database_is_not_current_when_a_migration_is_missing(bare_settings: Settings):
    database = Database(bare_settings)
    assert not is_current(bare_settings, database.engine)
    database.dispose()


def test_migrations_leave_nothing_to_generate_when_compared_with_the_tables(settings: Settings):
    command.check(alembic_config(settings))
