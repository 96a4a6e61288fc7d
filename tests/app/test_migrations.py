"""Migrations on both databases: up, down, up again, and equal to the tables in code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select

from app.db import Database
from app.migrate import alembic_config, is_current, upgrade
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import Base, Project
from tests.app.rows import Rows, fill, read

#: Oldest first.
_SCRIPTS = ScriptDirectory.from_config(alembic_config(Settings()))
REVISIONS = [found.revision for found in _SCRIPTS.walk_revisions()][::-1]


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


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    database = Database(settings)
    try:
        yield database.engine
    finally:
        database.dispose()


def _in_common(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    """Both, without the tables and columns that one of them lacks."""
    columns = {name: _columns(first[name]) & _columns(second[name]) for name in first.keys() & second.keys()}

    def kept(rows: Rows) -> Rows:
        return {name: [{key: row[key] for key in names} for row in rows[name]] for name, names in columns.items()}

    return kept(first), kept(second)


def _columns(rows: list[dict[str, Any]]) -> set[str]:
    return set(rows[0]) if rows else set()


@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_of_every_table_survive_when_migrated_up_down_and_up(bare_settings: Settings, revision: str):
    config = alembic_config(bare_settings)
    command.upgrade(config, revision)
    with _engine(bare_settings) as engine:
        fill(engine)
        before = read(engine)
    assert all(before.values())
    for step in ("head", revision, "head"):
        (command.upgrade if step == "head" else command.downgrade)(config, step)
        with _engine(bare_settings) as engine:
            after = read(engine)
        kept, found = _in_common(before, after)
        assert found == kept
        if step == revision:
            assert after == before


def test_rows_of_tables_that_stay_survive_when_the_newest_migration_is_undone(bare_settings: Settings):
    config = alembic_config(bare_settings)
    command.upgrade(config, "head")
    with _engine(bare_settings) as engine:
        fill(engine)
        before = read(engine)
    command.downgrade(config, REVISIONS[-2])
    with _engine(bare_settings) as engine:
        kept, found = _in_common(before, read(engine))
    assert found == kept
    assert kept.keys() >= {"projects", "jobs", "datasets"}
    command.upgrade(config, "head")
    with _engine(bare_settings) as engine:
        kept, found = _in_common(before, read(engine))
        assert is_current(bare_settings, engine)
    assert {name for name, rows in found.items() if rows} >= {"projects", "jobs", "datasets"}
    assert {name: rows for name, rows in found.items() if rows} == {name: kept[name] for name in found if found[name]}
