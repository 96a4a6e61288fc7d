"""Limits of projects come and go with their migration, and nothing else does: rows in place, on both databases."""

from alembic import command
from sqlalchemy import inspect, text

from app.dependencies import Services
from app.migrate import alembic_config
from app.projects import service
from app.security import DEFAULT_PROJECT
from tests.app.adapted import publish
from tests.jobs import dataset_row

COLUMNS = {"quota_bytes", "quota_rows", "quota_jobs", "quota_models"}
TABLES = ("api_keys", "datasets", "jobs", "models", "model_versions", "model_aliases")


def _columns(services: Services) -> set[str]:
    return {column["name"] for column in inspect(services.database.engine).get_columns("projects")}


def _rows(services: Services) -> dict[str, list[tuple[object, ...]]]:
    with services.database.session(read_only=True) as session:
        found = {
            name: [tuple(row) for row in session.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2"))]
            for name in TABLES
        }
        found["projects"] = [tuple(row) for row in session.execute(text("SELECT id, name, created_at FROM projects"))]
        return found


def test_limits_go_and_come_back_empty_while_every_row_stays(services: Services):
    dataset_row(services)
    publish(services, "fruit")
    with services.database.transaction() as session:
        service.limit(session, "default", {"rows": 2**40})
    before = _rows(services)
    services.database.dispose()
    command.downgrade(alembic_config(services.settings), "0001")
    assert not _columns(services) & COLUMNS
    assert _rows(services) == before
    services.database.dispose()
    command.upgrade(alembic_config(services.settings), "head")
    assert _columns(services) >= COLUMNS
    assert _rows(services) == before
    with services.database.session(read_only=True) as session:
        project = service.get(session, "default")
        assert (project.id, project.quota_rows) == (DEFAULT_PROJECT, None)
