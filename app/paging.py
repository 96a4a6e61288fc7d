"""Lists in pages, newest first: `page_size` is coerced down, `page_token` is what the page before gave."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import ErrorItem, InvalidInput

MAX_PAGE = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """`token` is the id of the last row of the page before."""

    size: int = MAX_PAGE
    token: str | None = None


def _page(
    page_size: Annotated[int, Query(ge=1, description=f"At most {MAX_PAGE}; more is coerced down")] = 50,
    page_token: Annotated[str | None, Query(pattern=r"^[a-z]{2,5}_[0-9a-f]{32}$")] = None,
) -> Page:
    return Page(min(page_size, MAX_PAGE), page_token)


PageDep = Annotated[Page, Depends(_page)]


#: Ids carry their kind, and so do page tokens: one of another list would silently give a wrong page.
_PREFIXES = {
    "datasets": "ds", "jobs": "job", "meta_learners": "ml", "models": "mdl", "alias_moves": "mv", "api_keys": "key",
}  # fmt: skip


def _check_token(token: str, id_column: InstrumentedAttribute[str]) -> None:
    if token.partition("_")[0] != _PREFIXES[id_column.class_.__tablename__]:
        item = ErrorItem(pointer="/query/page_token", code="invalid_page_token", message="the token of another list")
        raise InvalidInput("This page_token belongs to another list.", code="invalid_page_token", errors=[item])


def page_by_id(
    session: Session, rows: Select[T], id_column: InstrumentedAttribute[str], page: Page
) -> tuple[list[T], str | None]:
    """One page of `rows`, newest first (ids sort by creation time), and the token of the next page if there is one."""
    if page.token is not None:
        _check_token(page.token, id_column)
        rows = rows.where(id_column < page.token)
    found = list(session.scalars(rows.order_by(id_column.desc()).limit(page.size + 1)))
    has_more = len(found) > page.size
    return found[: page.size], str(getattr(found[page.size - 1], id_column.key)) if has_more else None
