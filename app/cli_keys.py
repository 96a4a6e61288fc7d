"""`metagraft keys` and `metagraft projects`: whoever can reach the database may do everything."""

# ruff: noqa: PLC0415 - each command imports what it needs, so that none waits for another's libraries
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_common import checked_name, fail, read_settings, transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.projects.schemas import Amount
    from app.tables import ApiKey

keys = typer.Typer(help="Keys of the API.", no_args_is_help=True)
projects = typer.Typer(help="Projects: each has keys, data and limits of its own.", no_args_is_help=True)

DEFAULT = "default"
LARGEST_LIMIT = 2**63 - 1
MAX_DAYS = 36_500

ProjectOption = Annotated[str, typer.Option("--project", help="Name of the project")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="The id: key_… (see metagraft keys list)")]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _day(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else "-"


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: datasets, jobs, models, predict, admin")] = "",
    project: ProjectOption = DEFAULT,
    days: Annotated[int | None, typer.Option(min=1, max=MAX_DAYS, help="Expires after so many days")] = None,
) -> None:
    """Create a key and print it, this once."""
    from app import security
    from app.db import utc_now
    from app.projects import service

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()] or list(security.SCOPES)
    if unknown := sorted(set(wanted) - set(security.SCOPES)):
        raise fail(f"Unknown scopes {', '.join(unknown)}; there are {', '.join(security.SCOPES)}.", 2)
    label = checked_name("--name", name)
    expires_at = utc_now() + timedelta(days=days) if days else None
    with transaction() as session:
        owner = service.get(session, checked_name("--project", project))
        _, token = security.create_key(session, project_id=owner.id, name=label, scopes=wanted, expires_at=expires_at)
    typer.echo(token)


@keys.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option("--project", help="Only the keys of this project")] = None,
) -> None:
    """List keys, newest first; the secrets are not on record."""
    from sqlalchemy import select

    from app.projects import service
    from app.tables import ApiKey, Project

    with transaction() as session:
        found = select(ApiKey, Project.name).join(Project, Project.id == ApiKey.project_id).order_by(ApiKey.id.desc())
        if project is not None:
            found = found.where(Project.id == service.get(session, checked_name("--project", project)).id)
        rows = [
            (key.id, owner, key.name, ",".join(key.scopes), _state(key), _day(key.created_at), _day(key.expires_at))
            for key, owner in session.execute(found)
        ]
    _table(("ID", "PROJECT", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES"), rows)


def _state(key: "ApiKey") -> str:
    from app.db import utc_now

    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= utc_now() else "live"


def _key(session: "Session", key_id: str) -> "ApiKey":
    from app.errors import NotFound
    from app.tables import ApiKey

    key = session.get(ApiKey, checked_name("KEY_ID", key_id))
    if key is None:
        raise NotFound(f"There is no key '{key_id}'.")
    return key


@keys.command("revoke")
def revoke_key(key_id: KeyArgument) -> None:
    """Revoke a key at once and for good."""
    from app.keys import service

    with transaction() as session:
        key = _key(session, key_id)
        service.revoke(key)
        name = key.name
    typer.echo(f"The key '{name}' is revoked.")


@keys.command("rotate")
def rotate_key(key_id: KeyArgument) -> None:
    """Create a second key like this one and print it; both live until the first is revoked."""
    from app.keys import service

    with transaction() as session:
        _, token = service.rotate(session, _key(session, key_id))
    typer.echo(f"The old key lives on. End it with: metagraft keys revoke {key_id}", err=True)
    typer.echo(token)


@projects.command("create")
def create_project(name: Annotated[str, typer.Argument(help="Name of the new project")]) -> None:
    """Create a project; a key made with `metagraft keys create --project NAME` opens it."""
    from app.projects import service

    label = checked_name("NAME", name)
    with transaction() as session:
        service.create(session, label)
    typer.echo(f"The project '{label}' exists.")


@projects.command("list")
def list_projects() -> None:
    """List projects with what they use, of what they may."""
    from app.projects import service

    settings = read_settings()
    with transaction() as session:
        rows = []
        for project in service.listed(session):
            usage = service.usage(session, settings, project)
            amounts = [usage.bytes, usage.rows, usage.jobs, usage.models]
            rows.append((project.name, *map(_amount, amounts), _day(project.created_at)))
    _table(("NAME", "BYTES", "ROWS", "JOBS", "MODELS", "CREATED"), rows)


def _amount(amount: "Amount") -> str:
    return f"{amount.used}/{'-' if amount.limit is None else amount.limit}"


@projects.command("limit")
def limit_project(
    name: Annotated[str, typer.Argument(help="Name of the project")],
    max_bytes: Annotated[str | None, typer.Option("--bytes", help="Bytes stored")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="Rows of datasets and feedback")] = None,
    jobs: Annotated[str | None, typer.Option("--jobs", help="Jobs waiting or running")] = None,
    models: Annotated[str | None, typer.Option("--models", help="Models")] = None,
) -> None:
    """Give a project limits of its own: a number, 0 for no limit, or `default` for the service's."""
    from app.projects import service
    from app.projects.quotas import Measure

    given: dict[Measure, str | None] = {"bytes": max_bytes, "rows": rows, "jobs": jobs, "models": models}
    wanted = {measure: _limit(measure, text) for measure, text in given.items() if text is not None}
    if not wanted:
        raise fail("Name at least one of --bytes, --rows, --jobs and --models.", 2)
    with transaction() as session:
        service.limit(session, checked_name("NAME", name), wanted)
    typer.echo(f"The limits of '{name}' are changed.")


def _limit(measure: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > LARGEST_LIMIT:
        raise fail(f"--{measure} takes a number up to {LARGEST_LIMIT}, 0 for no limit, or `default`; not '{text}'.", 2)
    return int(text)
