"""Writing the outcome of work that must not be lost to a moment without a database."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import as_app_error

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.5


def persist(database: Database, action: Callable[[Session], T]) -> T:
    """`action` in a transaction, tried again while the database is away.

    It may have committed although the answer was lost, so it must be fenced: trying again then changes nothing.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with database.transaction() as session:
                return action(session)
        except (DBAPIError, PoolTimeout) as error:
            if as_app_error(error).status != 503 or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
