"""What an attack is, what a harmless oddity is, and whether the service answered each as it should."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Make = Callable[[], bytes]
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Attack:
    """`make` gives the file. It is refused with `status` and a problem that carries `code`, itself or in an item.

    `row`, `column` and `entry` (of an archive) are what that item must name; None: there is nothing to name.
    """

    name: str
    make: Make
    code: str
    filename: str
    status: int = 422
    row: int | None = None
    column: str | None = None
    entry: str | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    is_heavy: bool = False
    """Takes more than a second or 50 MB; left to the benchmark."""

    @property
    def has_place(self) -> bool:
        return any(place is not None for place in (self.row, self.column, self.entry))


@dataclass(frozen=True)
class Harmless:
    """A file that looks odd and is right: a dataset of `rows` examples with these `classes`."""

    name: str
    make: Make
    filename: str
    rows: int
    classes: Mapping[str, int]
    form: Mapping[str, str] = field(default_factory=dict)


def is_refused(attack: Attack, status: int, media_type: str, body: Mapping[str, Any]) -> bool:
    """Whether the answer is the problem that the attack deserves."""
    codes = {body.get("code"), *(item["code"] for item in body.get("errors", ()))}
    return status == attack.status and media_type.startswith(PROBLEM) and attack.code in codes


def names_place(attack: Attack, body: Mapping[str, Any]) -> bool:
    """Whether an item of the problem has the attack's code and all of its places."""
    wanted = {"row": attack.row, "column": attack.column, "pointer": attack.entry}
    return any(
        item["code"] == attack.code and all(item[key] == value for key, value in wanted.items() if value is not None)
        for item in body.get("errors", ())
    )


def is_accepted(harmless: Harmless, status: int, body: Mapping[str, Any]) -> bool:
    """Whether the answer is the dataset that the file holds. Two files may hold the same one."""
    found = (body.get("n_examples"), body.get("classes"))
    return status in {200, 201} and found == (harmless.rows, dict(harmless.classes))
