"""Whether another transaction holds a lock, found out without waiting for it."""

import sqlite3

from sqlalchemy import Executable
from sqlalchemy.exc import OperationalError

from app.dependencies import Services


def is_refused(services: Services, statement: Executable) -> bool:
    """Whether the lock that `statement` asks for (by NOWAIT, on PostgreSQL) is held. SQLite has one lock for all."""
    url = services.settings.database_url
    if url.startswith("sqlite"):
        return _is_written_to(url.removeprefix("sqlite:///"))
    with services.database.session() as session:
        try:
            session.execute(statement)
        except OperationalError:
            return True
    return False


def _is_written_to(path: str) -> bool:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False
