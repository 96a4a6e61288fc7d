"""Everything that is wrong with the rows of an upload, gathered so that one answer can name it all."""

from collections.abc import Iterable

from app.errors import ErrorItem, InvalidInput

MAX_LISTED = 1_000
#: Nobody mends so many by hand, and counting on would only take time.
MAX_COUNTED = 1_000_000


class Findings:
    """Problems by row or archive entry. Counts them up to `MAX_COUNTED`, keeps the first `MAX_LISTED`."""

    def __init__(self) -> None:
        self.items: list[ErrorItem] = []
        self.problems = 0
        self._places: set[int | str] = set()

    def __bool__(self) -> bool:
        return self.problems > 0

    def add(self, item: ErrorItem) -> None:
        """Raises `InvalidInput` where there are too many to go on."""
        self.problems += 1
        place = item.row if item.row is not None else item.pointer
        if place is not None:
            self._places.add(place)
        if len(self.items) < MAX_LISTED:
            self.items.append(item)
        if self.problems >= MAX_COUNTED:
            self.raise_if_any()

    def row(self, row: int, code: str, message: str, *, column: str | None = None, hint: str | None = None) -> None:
        self.add(ErrorItem(row=row, column=column, code=code, message=message, hint=hint))

    def entry(self, name: str, code: str, message: str, *, hint: str | None = None) -> None:
        self.add(ErrorItem(pointer=name, code=code, message=message, hint=hint))

    def extend(self, items: Iterable[ErrorItem]) -> None:
        for item in items:
            self.add(item)

    def raise_if_any(self, subject: str = "row") -> None:
        """Raises `InvalidInput` with what was found, sorted by row."""
        if not self:
            return
        listed = f" The first {MAX_LISTED} are listed." if self.problems > MAX_LISTED else ""
        bad = len(self._places)
        counted = f"{bad} bad {subject if bad == 1 else _plural(subject)}, " if bad else ""
        least = "at least " if self.problems >= MAX_COUNTED else ""
        detail = (
            f"{counted}{least}{self.problems} problem{'s' * (self.problems != 1)} in all.{listed} Nothing was stored."
        )
        raise InvalidInput(detail, code="bad_rows", errors=sorted(self.items, key=lambda item: item.row or 0))


def _plural(subject: str) -> str:
    return "entries" if subject == "entry" else subject + "s"


def refuse(
    code: str, message: str, *, hint: str | None = None, column: str | None = None, pointer: str | None = None
) -> InvalidInput:
    """The error for a file that is wrong as a whole."""
    item = ErrorItem(code=code, message=message, hint=hint, column=column, pointer=pointer)
    return InvalidInput(f"{message}{' ' + hint if hint else ''}", code=code, errors=[item])


def shown(names: Iterable[str], limit: int = 10) -> str:
    """Names for a message: at most `limit`, each cut to 60 characters."""
    listed = [f"'{name[:60]}{'…' * (len(name) > 60)}'" for name in names]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
