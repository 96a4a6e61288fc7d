"""A running service with a model of each modality, and a key to ask it with."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from app.migrate import upgrade
from app.security import DEFAULT_PROJECT, create_key
from app.settings import Settings
from benchmarks.inprocess import serving
from tests.app.adapted import adapted, encoded, publish, table_outcome

TEXTS = ["a lovely film", "wonderful acting", "i enjoyed it", "a dull film", "terrible acting", "i hated it"]


@dataclass(frozen=True, kw_only=True)
class Furnished:
    """`film` takes texts, `tint` images, `fruit` (two versions) and `weight` (of numbers) tables."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def png(colour: str, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def furnished(settings: Settings) -> Iterator[Furnished]:
    upgrade(settings)
    with serving(settings) as served:
        services = served.app.state.services
        for _ in range(2):
            publish(services, "fruit")
        publish(services, "weight", table_outcome("regression"), task="regression")
        film = encoded("text", TEXTS, ["good"] * 3 + ["bad"] * 3)
        publish(services, "film", adapted(services.inference, film), modality="text")
        pictures = [png(colour, size) for colour in ("red", "blue") for size in (40, 50, 60)]
        tint = encoded("image", pictures, ["warm"] * 3 + ["cold"] * 3)
        publish(services, "tint", adapted(services.inference, tint), modality="image")
        with services.database.transaction() as session:
            _, token = create_key(session, project_id=DEFAULT_PROJECT, name="client", scopes=["predict"])
        yield Furnished(port=served.port, token=token)
