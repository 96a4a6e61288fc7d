"""What the database is makes no difference to a protocol, so one kind will do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from tests.app.open_inference import models


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(scope="package")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[models.Furnished]:
    """One for all tests of this folder, which only ask it."""
    folder = tmp_path_factory.mktemp("furnished")
    with models.furnished(Settings(data_dir=folder, broker_url="redis://127.0.0.1:1/0", warm_up=False)) as found:
        yield found
