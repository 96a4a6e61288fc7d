"""The commands that look after what is stored: collecting garbage, backing up and restoring."""

# ruff: noqa: PLC0415 - each command imports what it needs, so that none waits for another's libraries
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_common import counted, fail, read_settings
from app.settings import Settings

if TYPE_CHECKING:
    from app.db import Database

#: Blobs that a dry run names one by one.
MAX_LISTED = 1_000


def add_to(app: typer.Typer) -> None:
    for command in (gc, backup, restore):
        app.command()(command)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Hours for which nothing must have named a blob")
    ] = 24.0,
) -> None:
    """Delete the stored files that nothing names any more, as seen by this run and by earlier ones."""
    from app.collection import collect, preview
    from app.errors import AppError
    from app.storage import make_storage

    settings = read_settings()
    with _database_answers(), _current_database(settings) as database:
        try:
            found = (preview if dry_run else collect)(database, make_storage(settings), older_than_hours=older_than)
        except AppError as error:
            raise fail(error.detail) from None
    if dry_run:
        for sha256, size in found.deleted[:MAX_LISTED]:
            typer.echo(f"{sha256} {size}")
    verb = "Would delete" if dry_run else "Deleted"
    typer.echo(f"{verb} {counted(len(found.deleted), 'blob')}, {counted(found.deleted_bytes, 'byte')}.")
    if found.partial_bytes:
        typer.echo(f"Removed {counted(found.partial_bytes, 'byte')} of files left half written.")
    if found.is_held_back:
        typer.echo("A backup is being made: nothing is deleted until it is done.")
    elif found.waiting:
        told = f"{counted(len(found.waiting), 'blob')}, {counted(found.waiting_bytes, 'byte')}"
        typer.echo(f"Unnamed for less than {older_than:g} hours, as far as was seen, and kept: {told}.")


def backup(
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file whose name ends in .tar")],
) -> None:
    """Write the database and the stored files into a folder or a file. The service may run meanwhile."""
    from app.backups.errors import BackupError
    from app.backups.writing import write_backup
    from app.errors import AppError
    from app.storage import make_storage

    settings = read_settings()
    with _database_answers(), _current_database(settings) as database:
        try:
            made = write_backup(database, make_storage(settings), target)
        except (BackupError, AppError, OSError) as error:
            raise fail(f"No backup was made: {error}") from None
    typer.echo(f"Backed up {counted(made.rows, 'row')} and {counted(made.blobs, 'blob')} into {target}.")


def restore(source: Annotated[Path, typer.Argument(help="What `metagraft backup` wrote")]) -> None:
    """Fill an empty database and the storage from a backup. Stop the service first."""
    from app.backups.errors import BackupError
    from app.backups.restoring import restore_backup
    from app.errors import AppError
    from app.storage import make_storage
    from app.supervisor import CannotServe, lock_data_dir

    settings = read_settings()
    try:
        with _database_answers(), lock_data_dir(settings.data_dir):
            found = restore_backup(settings, make_storage(settings), source)
    except (BackupError, AppError, CannotServe, OSError) as error:
        raise fail(f"Nothing was restored: {error}") from None
    typer.echo(f"Restored {counted(found.rows, 'row')} and {counted(found.blobs, 'blob')} from {source}.")


@contextmanager
def _current_database(settings: Settings) -> Iterator["Database"]:
    """The database, whose schema has to be this version's."""
    from app.db import Database
    from app.migrate import is_current

    database = Database(settings)
    try:
        if not is_current(settings, database.engine):
            raise fail("The database has another schema than this version; run `metagraft migrate` first.")
        yield database
    finally:
        database.dispose()


@contextmanager
def _database_answers() -> Iterator[None]:
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        reason = str(error.orig).partition("\n")[0]
        raise fail(f"The database is busy or away ({reason}); try again.") from None
