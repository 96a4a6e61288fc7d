"""`metagraft keys` and `metagraft projects`, on both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from app.cli import app
from app.db import utc_now
from app.dependencies import Services
from app.errors import Unauthorized
from app.security import SCOPES, Principal, authenticate
from app.settings import Settings
from app.tables import ApiKey, Project
from tests.conftest import environment
from tests.jobs import dataset_row


@pytest.fixture
def metagraft(settings: Settings) -> Any:
    """Runs the command, which must succeed unless another status is expected."""
    variables = {name: value for name, value in environment(settings).items() if name.startswith("METAGRAFT_")}

    def run(*arguments: str, status: int = 0, **values: str) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=variables | values)
        assert result.exit_code == status, result.output
        return result

    return run


def principal(services: Services, token: str) -> Principal:
    with services.database.session(read_only=True) as session:
        return authenticate(session, f"Bearer {token.strip()}", may_be_open=False)


def the_key(services: Services) -> ApiKey:
    with services.database.session(read_only=True) as session:
        return session.scalars(select(ApiKey)).one()


def test_key_opens_its_project_when_it_is_created_for_one(metagraft, services: Services):
    metagraft("projects", "create", "radiology")
    token = metagraft("keys", "create", "--name", "ci", "--project", "radiology").stdout
    found = principal(services, token)
    with services.database.session(read_only=True) as session:
        assert session.get_one(Project, found.project_id).name == "radiology"
    assert found.scopes == set(SCOPES)


def test_key_expires_when_days_are_given(metagraft, services: Services):
    metagraft("keys", "create", "--name", "trial", "--days", "30")
    expires_at = the_key(services).expires_at
    assert expires_at is not None
    assert timedelta(days=29) < expires_at - utc_now() <= timedelta(days=30)


@pytest.mark.parametrize("days", ["0", "-1", "1000000", "soon"])
def test_key_is_refused_when_its_days_are_odd(metagraft, days: str):
    metagraft("keys", "create", "--name", "trial", "--days", days, status=2)


def test_key_is_refused_when_its_project_does_not_exist(metagraft, services: Services):
    result = metagraft("keys", "create", "--name", "ci", "--project", "nowhere", status=1)
    assert "There is no project 'nowhere'." in result.output
    with services.database.session(read_only=True) as session:
        assert session.scalars(select(ApiKey)).all() == []


def test_list_shows_keys_with_their_state_and_no_secret(metagraft, services: Services):
    metagraft("projects", "create", "radiology")
    tokens = [
        metagraft("keys", "create", "--name", "old").stdout.strip(),
        metagraft("keys", "create", "--name", "late", "--days", "1").stdout.strip(),
        metagraft("keys", "create", "--name", "other", "--project", "radiology", "--scopes", "jobs").stdout.strip(),
    ]
    with services.database.transaction() as session:
        rows = {key.name: key for key in session.scalars(select(ApiKey))}
        rows["old"].revoked_at = utc_now()
        rows["late"].expires_at = utc_now() - timedelta(seconds=1)
    result = metagraft("keys", "list")
    states = {line.split()[2]: line.split()[4] for line in result.stdout.splitlines()[1:]}
    assert states == {"old": "revoked", "late": "expired", "other": "live"}
    assert not [token for token in tokens if token.split("_", 2)[2] in result.output]
    only = metagraft("keys", "list", "--project", "radiology").stdout
    assert ("other" in only, "old" in only, "radiology" in only) == (True, False, True)
    metagraft("keys", "list", "--project", "nowhere", status=1)


def test_revoked_key_opens_nothing(metagraft, services: Services):
    token = metagraft("keys", "create", "--name", "laptop").stdout
    key_id = the_key(services).id
    assert "'laptop' is revoked" in metagraft("keys", "revoke", key_id).output
    with pytest.raises(Unauthorized):
        principal(services, token)
    metagraft("keys", "revoke", key_id)


def test_rotated_key_lives_beside_the_new_one_until_it_is_revoked(metagraft, services: Services):
    old = metagraft("keys", "create", "--name", "laptop", "--scopes", "jobs").stdout
    key_id = the_key(services).id
    new = metagraft("keys", "rotate", key_id).stdout
    assert principal(services, old).scopes == principal(services, new).scopes == {"jobs"}
    metagraft("keys", "revoke", key_id)
    assert principal(services, new).scopes == {"jobs"}
    with pytest.raises(Unauthorized):
        principal(services, old)
    assert "cannot be rotated" in metagraft("keys", "rotate", key_id, status=1).output


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_command_is_refused_when_the_key_does_not_exist(metagraft, command: str):
    assert "There is no key 'key_0'." in metagraft("keys", command, "key_0", status=1).output


def test_project_is_refused_when_its_name_is_taken(metagraft):
    metagraft("projects", "create", "radiology")
    assert "already" in metagraft("projects", "create", "radiology", status=1).output
    metagraft("projects", "create", "default", status=1)


@pytest.mark.parametrize("name", ["", "  ", "a" * 201])
def test_project_is_refused_when_its_name_cannot_be_stored(metagraft, name: str):
    metagraft("projects", "create", name, status=2)


def test_list_shows_what_projects_use_of_what_they_may(metagraft, services: Services):
    metagraft("projects", "create", "radiology")
    dataset_row(services, n_examples=7, size_bytes=100)
    metagraft("projects", "limit", "radiology", "--rows", "0", "--models", "3")
    lines = metagraft("projects", "list", METAGRAFT_QUOTA_ROWS="50").stdout.splitlines()
    shown = {line.split()[0]: line.split()[1:5] for line in lines[1:]}
    assert lines[0].split() == ["NAME", "BYTES", "ROWS", "JOBS", "MODELS", "CREATED"]
    assert shown == {"default": ["100/-", "7/50", "0/-", "0/-"], "radiology": ["0/-", "0/-", "0/-", "0/3"]}


def test_limit_changes_what_is_named_and_nothing_else(metagraft, services: Services):
    def limits() -> list[int | None]:
        with services.database.session(read_only=True) as session:
            project = session.scalars(select(Project)).one()
            return [project.quota_bytes, project.quota_rows, project.quota_jobs, project.quota_models]

    metagraft("projects", "limit", "default", "--bytes", str(2**63 - 1), "--rows", "5", "--jobs", "2", "--models", "1")
    assert limits() == [2**63 - 1, 5, 2, 1]
    metagraft("projects", "limit", "default", "--rows", "default", "--jobs", "0")
    assert limits() == [2**63 - 1, None, 0, 1]


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "", str(2**63), "9" * 5_000, "٣"])
def test_limit_is_refused_when_it_is_no_number(metagraft, value: str):
    metagraft("projects", "limit", "default", f"--rows={value}", status=2)


def test_limit_is_refused_when_nothing_is_named_or_the_project_does_not_exist(metagraft):
    metagraft("projects", "limit", "default", status=2)
    metagraft("projects", "limit", "nowhere", "--rows", "1", status=1)
