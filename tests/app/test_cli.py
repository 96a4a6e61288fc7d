import subprocess
import sys

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from app.cli import app
from app.dependencies import Services
from app.security import authenticate
from app.settings import Settings
from app.tables import ApiKey
from tests.conftest import environment


def _invoke(settings: Settings, *arguments: str):
    values = {name: value for name, value in environment(settings).items() if name.startswith("METAGRAFT_")}
    return CliRunner().invoke(app, list(arguments), env=values)


def test_created_key_opens_the_service_when_used(settings: Settings, services: Services):
    result = _invoke(settings, "keys", "create", "--name", "laptop", "--scopes", "jobs,predict")
    assert result.exit_code == 0
    with services.database.session(read_only=True) as session:
        principal = authenticate(session, f"Bearer {result.stdout.strip()}", may_be_open=False)
        names = list(session.scalars(select(ApiKey.name)))
    assert (sorted(principal.scopes), names) == (["jobs", "predict"], ["laptop"])


def test_creating_a_key_is_refused_when_a_scope_is_unknown(settings: Settings):
    result = _invoke(settings, "keys", "create", "--name", "laptop", "--scopes", "jobs,fly")
    assert (result.exit_code, "Unknown scopes fly" in result.output) == (2, True)


@pytest.mark.parametrize("name", ["", "a" * 201, "a\0b"])
def test_creating_a_key_is_refused_when_its_name_cannot_be_stored(settings: Settings, name: str):
    assert _invoke(settings, "keys", "create", "--name", name).exit_code == 2


def test_migrations_make_the_tables_when_checked(settings: Settings):
    assert _invoke(settings, "migrate", "--check").exit_code == 0


def test_migrating_changes_nothing_when_done_again(settings: Settings):
    assert _invoke(settings, "migrate").exit_code == 0


def test_command_explains_itself_when_a_setting_is_wrong(settings: Settings):
    result = CliRunner().invoke(app, ["migrate"], env={"METAGRAFT_PORT": "99999"})
    assert result.exit_code == 2
    assert "METAGRAFT_PORT" in result.output


def test_supervisor_and_dispatcher_stay_without_torch_when_imported():
    code = "import sys, app.cli, app.supervisor, app.security, worker.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
