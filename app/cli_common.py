"""What the modules of the command share."""

import typer
from pydantic import ValidationError

from app.settings import Settings


def fail(message: str, status: int = 1) -> typer.Exit:
    """To be raised: the message goes to standard error."""
    typer.echo(message, err=True)
    return typer.Exit(status)


def read_settings() -> Settings:
    """Raises `typer.Exit` with what is wrong with them."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"METAGRAFT_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise fail("The settings are wrong:\n" + "\n".join(lines), 2) from None


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
