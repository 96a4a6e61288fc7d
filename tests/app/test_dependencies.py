"""What a request's session does beside its transaction, and that there is one for every request thread."""

from contextlib import ExitStack

from sqlalchemy import text

from app.db import REQUEST_THREADS
from app.dependencies import Services, after_commit, run_after_commit


def test_actions_after_the_commit_all_run_when_one_fails(services: Services):
    done: list[str] = []

    def fail() -> None:
        raise OSError("away")

    with services.database.session() as session:
        after_commit(session, fail)
        after_commit(session, lambda: done.append("second"))
        run_after_commit(session)
    assert done == ["second"]


def test_every_request_thread_has_a_connection_when_all_ask_at_once(services: Services):
    with ExitStack() as open_sessions:
        for _ in range(REQUEST_THREADS):
            session = open_sessions.enter_context(services.database.session(read_only=True))
            assert session.scalar(text("SELECT 1")) == 1
