"""What a client of a predict route sees of batches and queues, and what its leaving does."""

import asyncio
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from app.inference.answering import unless_left
from app.inference.serving import Serving
from app.main import create_app
from app.settings import Settings
from tests.app.adapted import adapted, encoded, publish, services_of

TEXTS = ["a lovely film", "wonderful acting", "i enjoyed it", "a dull film", "terrible acting", "i hated it"]
ASK = {"inputs": ["a film"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Any) -> Any:
    folder = tmp_path_factory.mktemp("answering")
    database = folder / "metagraft.db"
    database.write_bytes(sqlite_template.read_bytes())
    settings = Settings(
        data_dir=folder, database_url=f"sqlite:///{database}", broker_url="memory://", warm_up=False,
        recent_features_bytes=0,
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        services = services_of(client)
        outcome = adapted(services.inference, encoded("text", TEXTS, ["good"] * 3 + ["bad"] * 3))
        publish(services, "films", outcome, modality="text")
        yield client


@pytest.fixture
def serving(client: TestClient) -> Any:
    serving = services_of(client).inference.serving
    before = serving.settings
    yield serving
    serving.settings = before


def test_answer_that_takes_too_long_is_a_504_that_may_be_tried_again(client: TestClient, serving: Serving) -> None:
    serving.settings = serving.settings.model_copy(update={"deadline_seconds": 1e-9})
    answer = client.post("/v1/models/films/predict", json=ASK)
    assert answer.status_code == 504
    assert (answer.json()["code"], answer.json()["retryable"]) == ("deadline_exceeded", True)


def test_call_to_a_full_queue_is_a_503_that_says_when_to_come_again(client: TestClient, serving: Serving) -> None:
    assert client.post("/v1/models/films/predict", json=ASK).status_code == 200
    batcher = serving.batchers["minilm-l6-v2"]
    batcher._waiting += 10_000
    answer = client.post("/v1/models/films/predict", json=ASK)
    batcher._waiting -= 10_000
    assert answer.status_code == 503
    assert answer.json()["code"] == "overloaded"
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.post("/v1/models/films/predict", json=ASK).status_code == 200


def test_metrics_tell_of_batches_and_of_loaded_models(client: TestClient) -> None:
    client.post("/v1/models/films/predict", json={"inputs": ["one", "two", "three"]})
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(lines["metagraft_models_loaded"]) == 1
    assert float(lines["metagraft_models_loaded_bytes"]) > 1_000
    assert float(lines['metagraft_waiting_inputs{encoder="minilm-l6-v2"}']) == 0
    batches = float(lines['metagraft_batches_total{encoder="minilm-l6-v2"}'])
    assert 1 <= batches < float(lines['metagraft_batch_inputs_total{encoder="minilm-l6-v2"}'])


def leaving(leaves: asyncio.Event) -> Request:
    """A request, read whole, of a client that closes its connection."""

    async def receive() -> dict[str, Any]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def test_work_is_cancelled_as_soon_as_its_client_leaves() -> None:
    async def scenario() -> None:
        leaves, began, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        answering = asyncio.ensure_future(unless_left(leaving(leaves), work()))
        await began.wait()
        leaves.set()
        with pytest.raises(ClientDisconnect):
            await answering
        await asyncio.wait_for(cancelled.wait(), 90)

    asyncio.run(scenario())


def test_answer_or_error_of_the_work_is_that_of_the_call() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise LookupError("gone")

    async def scenario() -> None:
        stays = leaving(asyncio.Event())
        assert await unless_left(stays, answer()) == 7
        with pytest.raises(LookupError, match="gone"):
            await unless_left(stays, fail())

    asyncio.run(scenario())
