"""A key for tests that are not about keys."""

from fastapi.testclient import TestClient

from app.security import DEFAULT_PROJECT, SCOPES, create_key
from tests.app.adapted import services_of


def new_key(client: TestClient) -> str:
    """A new key that may do everything; from now on the service asks for one."""
    with services_of(client).database.transaction() as session:
        _, token = create_key(session, project_id=DEFAULT_PROJECT, name="test", scopes=SCOPES)
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
