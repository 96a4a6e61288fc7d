"""What several commands need: settings with readable errors, a migrated database, an orderly end."""

# ruff: noqa: PLC0415 - each command imports what it needs, so that none waits for another's libraries
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from pydantic import TypeAdapter, ValidationError

from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def fail(message: str, status: int = 1) -> typer.Exit:
    """What to raise once `message` has been told."""
    typer.echo(message, err=True)
    return typer.Exit(status)


def read_settings() -> Settings:
    """The settings of the environment; a wrong one ends the command, on a line each."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"METAGRAFT_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise fail("The settings are wrong:\n" + "\n".join(lines), 2) from None


def migrate(settings: Settings) -> None:
    from app.migrate import upgrade

    upgrade(settings)


def checked_name(option: str, value: str) -> str:
    """A name that both databases can hold; any other ends the command."""
    from app.schemas import Name

    try:
        return TypeAdapter(Name).validate_python(value)
    except ValidationError as error:
        raise fail(f"{option}: {error.errors()[0]['msg']}", 2) from None


@contextmanager
def transaction() -> "Iterator[Session]":
    """A transaction on the configured database, migrated first. What the service refuses ends the command."""
    from app.db import Database
    from app.errors import AppError

    settings = read_settings()
    migrate(settings)
    database = Database(settings)
    try:
        with database.transaction() as session:
            yield session
    except AppError as error:
        raise fail(error.detail) from None
    finally:
        database.dispose()


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
