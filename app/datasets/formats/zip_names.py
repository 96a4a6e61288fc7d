"""Names of archive entries as untrusted text. They never become paths here, but an archive may travel further."""

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from app.datasets.findings import refuse
from app.errors import InvalidInput

_DRIVE = re.compile(r"[A-Za-z]:")
#: Times that a name is decoded, should there be codes in codes.
_MAX_DECODED = 5


def unsafe(code: str, name: str, message: str) -> InvalidInput:
    """The refusal of the whole archive because of one entry."""
    cut = name[:300]
    error = refuse(code, f"Archive entry '{cut[:100]}' {message}.", pointer=cut)
    return InvalidInput(error.detail, code="unsafe_archive", errors=error.errors)


def check_name(name: str) -> None:
    """Names only tell class and example apart, but one that tries to be a path elsewhere has no honest use.

    Raises:
        InvalidInput: (entry_name, path_traversal) the name or what it stands for is such a path, or is none at all.
    """
    if not name or "\0" in name:
        raise unsafe("entry_name", name.replace("\0", "␀"), "has an empty name or a NUL in it")
    for form in _decoded(name):
        _check_form(form, name)


def _check_form(form: str, name: str) -> None:
    if "\0" in form:
        raise unsafe("entry_name", name, "has a NUL in its name, in disguise")
    if "\\" in form:
        raise unsafe("entry_name", name, "has a backslash in its name")
    if form.startswith("/") or _DRIVE.match(form):
        raise unsafe("path_traversal", name, "has an absolute path")
    # Some systems leave out blanks at the end of a part.
    parts = [part.strip() or part for part in form.removesuffix("/").split("/")]
    if ".." in parts:
        raise unsafe("path_traversal", name, "points outside of the archive")
    if any(not part.strip(".") for part in parts):
        raise unsafe("entry_name", name, "has a part without a name, or of dots alone, in its path")


def _decoded(name: str) -> Iterator[str]:
    """The name, and what it becomes where percent codes and compatible characters are resolved, again and again."""
    form = name
    for _ in range(_MAX_DECODED):
        yield form
        decoded = unicodedata.normalize("NFKC", unquote(form))
        if decoded == form:
            return
        form = decoded
    raise unsafe("entry_name", name, "has codes within codes in its name")
