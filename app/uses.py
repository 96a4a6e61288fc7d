"""Refusing to delete what something else still uses, and naming what that is."""

from collections.abc import Sequence

from app.datasets.findings import shown
from app.errors import Conflict, ErrorItem

MAX_LISTED = 100
UNTIL_A_JOB_ENDS = "Wait for the job to end, or cancel it."


def refuse_while_used(what: str, users: Sequence[str], *, code: str, hint: str) -> None:
    """Raises `Conflict` where there are `users` (ids of jobs, names of aliases); `what` begins the sentence."""
    if not users:
        return
    items = [ErrorItem(code="in_use", message=f"Used by {user}.", hint=hint) for user in users[:MAX_LISTED]]
    raise Conflict(f"{what} is in use by {shown(users)}. {hint}", code=code, errors=items)
