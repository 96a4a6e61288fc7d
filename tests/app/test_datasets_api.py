"""The dataset routes, on both databases."""

import base64
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from app.datasets import service
from app.dependencies import Services
from app.ids import new_id
from app.security import DEFAULT_PROJECT, create_key
from app.tables import Dataset, Job, MetaLearner, Project
from tests.app.files import CSV, parquet_of, png, two_classes, zip_of


@pytest.fixture
def services(client: TestClient) -> Services:
    """The services of the API under test."""
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


@pytest.fixture
def upload(client: TestClient) -> Callable[..., Any]:
    def upload(data: bytes = CSV, *, name: str = "some", headers: dict[str, str] | None = None, **form: Any) -> Any:
        files = {"file": ("data", data)}
        return client.post("/v1/datasets", files=files, data={"name": name, **form}, headers=headers)

    return upload


def table(seed: int) -> bytes:
    """A small table, different for each seed."""
    return b"a,label\n%d,x\n2,y\n" % (seed + 10)


def add_job(services: Services, state: str, spec: dict[str, Any]) -> str:
    job_id = new_id("job")
    with services.database.transaction() as session:
        session.add(Job(id=job_id, project_id=DEFAULT_PROJECT, kind="adapt", queue="adapt", spec=spec, state=state))
    return job_id


def test_upload_answers_201_with_the_dataset(upload: Callable[..., Any], client: TestClient) -> None:
    response = upload(name=" reviews ", domain="films")
    dataset = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert dataset["id"].startswith("ds_")
    expected = {
        "name": "reviews", "domain": "films", "modality": "text", "task": "classification", "n_examples": 3,
        "classes": {"negative": 1, "positive": 2},
    }  # fmt: skip
    assert {key: dataset[key] for key in expected} == expected
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset


def test_upload_uses_the_name_as_domain_when_none_is_given(upload: Callable[..., Any]) -> None:
    assert upload(name="reviews", domain="").json()["domain"] == "reviews"


@pytest.mark.parametrize(
    "input_columns", [["a", "b"], "a, b", '["a", "b"]'], ids=["repeated field", "comma separated", "JSON list"]
)
def test_upload_takes_input_columns_in_three_ways(upload: Callable[..., Any], input_columns: Any) -> None:
    response = upload(b"a,b,c,d\n1,2,3,x\n3,4,5,y\n", label_column="d", input_columns=input_columns)
    assert response.json()["columns"] == {"a": "numeric", "b": "numeric"}


def test_upload_takes_the_file_before_or_after_the_fields(client: TestClient) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n%s\r\n'
    body += b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\xa9t\xc3\xa9\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/v1/datasets", content=body % CSV, headers=headers)
    assert (response.status_code, response.json()["name"]) == (201, "été")


def test_upload_answers_200_with_the_first_when_the_content_is_there_already(
    upload: Callable[..., Any], client: TestClient, services: Services
) -> None:
    first = upload(name="first")
    rows = [dict(zip(("text", "label"), line.split(","), strict=True)) for line in CSV.decode().splitlines()[1:]]
    again = upload("\n".join(map(json.dumps, rows)).encode(), name="second")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(client.get("/v1/datasets").json()["items"]) == 1


def test_upload_stores_one_dataset_when_many_send_the_same_at_once(
    upload: Callable[..., Any], client: TestClient, services: Services
) -> None:
    together = threading.Barrier(6)

    def one(i: int) -> Any:
        together.wait()
        return upload(name=f"n{i}")

    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(one, range(6)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [201]
    assert len({response.json()["id"] for response in responses}) == 1
    with services.database.session(read_only=True) as session:
        (dataset,) = session.scalars(select(Dataset))
    assert services.storage.exists(dataset.blob)


def test_upload_stores_the_same_content_for_every_project(
    upload: Callable[..., Any], services: Services, other_project: dict[str, str]
) -> None:
    mine, theirs = upload(headers=_key(services, DEFAULT_PROJECT)), upload(headers=other_project)
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]


def _key(services: Services, project_id: str, *scopes: str) -> dict[str, str]:
    with services.database.transaction() as session:
        _, token = create_key(session, project_id=project_id, name="k", scopes=scopes or ("datasets",))
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def other_project(services: Services) -> dict[str, str]:
    """The headers of somebody else."""
    with services.database.transaction() as session:
        session.add(Project(id="prj_other", name="other"))
    return _key(services, "prj_other")


def test_dataset_of_another_project_is_not_there(
    upload: Callable[..., Any], client: TestClient, services: Services, other_project: dict[str, str]
) -> None:
    mine = upload(headers=_key(services, DEFAULT_PROJECT)).json()["id"]
    for call in (
        client.get(f"/v1/datasets/{mine}", headers=other_project),
        client.get(f"/v1/datasets/{mine}/examples", headers=other_project),
        client.get(f"/v1/datasets/{mine}/examples/1/image", headers=other_project),
        client.delete(f"/v1/datasets/{mine}", headers=other_project),
    ):
        assert (call.status_code, call.json()["code"]) == (404, "dataset_not_found")
    assert client.get("/v1/datasets", headers=other_project).json()["items"] == []


def test_upload_is_refused_before_it_is_received_when_the_key_lacks_the_scope(
    upload: Callable[..., Any], services: Services
) -> None:
    response = upload(b"no matter", headers=_key(services, DEFAULT_PROJECT, "predict"))
    assert (response.status_code, response.json()["code"]) == (403, "missing_scope")
    assert not (services.settings.data_dir / "tmp").exists()


def test_upload_leaves_no_scratch_files(upload: Callable[..., Any], services: Services) -> None:
    upload()
    upload(b"broken")
    assert list((services.settings.data_dir / "tmp").iterdir()) == []


@pytest.mark.parametrize("dataset_id", ["ds_0", "%00", "x" * 190, "ds_%F0%9F%98%80", "' OR 1=1 --"])
def test_dataset_is_not_found_when_the_id_is_unknown(client: TestClient, dataset_id: str) -> None:
    for call in (client.get, client.delete):
        assert call(f"/v1/datasets/{dataset_id}").status_code in {404, 422}


def test_list_pages_through_everything_newest_first(upload: Callable[..., Any], client: TestClient) -> None:
    ids = [upload(table(i)).json()["id"] for i in range(5)]
    seen, token, pages = [], None, 0
    while pages == 0 or token:
        page = client.get("/v1/datasets", params={"page_size": 2} | ({"page_token": token} if token else {})).json()
        seen += [item["id"] for item in page["items"]]
        token, pages = page["next_page_token"], pages + 1
    assert (seen, pages) == (ids[::-1], 3)


def test_list_filters_by_name_modality_and_domain(upload: Callable[..., Any], client: TestClient) -> None:
    upload(name="texts", domain="films")
    upload(table(1), name="table", domain="films")
    upload(zip_of(two_classes()), name="images", domain="pets")

    def names(**filters: str) -> set[str]:
        return {item["name"] for item in client.get("/v1/datasets", params=filters).json()["items"]}

    assert names(name="table") == {"table"}
    assert names(modality="image") == {"images"}
    assert names(domain="films") == {"texts", "table"}
    assert names(domain="films", modality="text") == {"texts"}
    assert names(name="nothing") == set()


@pytest.mark.parametrize(
    "query",
    [
        "page_token=x",
        "page_token=job_01a2066163017f7494faf0c8cb358222",
        "page_token=%00",
        "page_size=0",
        "page_size=x",
        "modality=sound",
        "name=%00",
    ],
)
def test_list_is_refused_when_a_parameter_is_wrong(client: TestClient, query: str) -> None:
    assert client.get(f"/v1/datasets?{query}").status_code == 422


def test_list_coerces_a_large_page_size_down(client: TestClient) -> None:
    assert client.get("/v1/datasets?page_size=100000").status_code == 200


def test_examples_show_texts_in_pages(upload: Callable[..., Any], client: TestClient) -> None:
    dataset_id = upload().json()["id"]
    first = client.get(f"/v1/datasets/{dataset_id}/examples?page_size=2").json()
    assert first["items"][0] == {"row": 1, "label": "positive", "input": "I like this film a lot"}
    token = first["next_page_token"]
    second = client.get(f"/v1/datasets/{dataset_id}/examples?page_size=2&page_token={token}").json()
    assert [item["row"] for item in second["items"]] == [3]
    assert second["next_page_token"] is None


def test_examples_show_rows_of_a_table_with_null_where_missing(upload: Callable[..., Any], client: TestClient) -> None:
    data = parquet_of({"b": [1.5, None], "a": [None, "x"], "label": [2.5, 3.25]})
    dataset_id = upload(data).json()["id"]
    items = client.get(f"/v1/datasets/{dataset_id}/examples").json()["items"]
    assert items == [
        {"row": 1, "label": 2.5, "input": {"b": 1.5, "a": None}},
        {"row": 2, "label": 3.25, "input": {"b": None, "a": "x"}},
    ]


def test_examples_show_images_as_thumbnails_and_whole(upload: Callable[..., Any], client: TestClient) -> None:
    entries = two_classes() | {"cat/wide.png": png(side=300)}
    dataset_id = upload(zip_of(entries)).json()["id"]
    last = client.get(f"/v1/datasets/{dataset_id}/examples").json()["items"][-1]
    assert (last["input"]["entry"], last["label"]) == ("cat/wide.png", "cat")
    thumbnail = base64.b64decode(last["input"]["thumbnail"].partition("base64,")[2])
    assert Image.open(io.BytesIO(thumbnail)).size == (96, 96)
    whole = client.get(f"/v1/datasets/{dataset_id}/examples/{last['row']}/image")
    assert whole.content == entries["cat/wide.png"]
    assert whole.headers["content-type"] == "image/png"


@pytest.mark.parametrize(("row", "status"), [(1, 404), (99, 404), (10**9, 404), (2**63, 422), (0, 422)])
def test_image_is_not_found_when_there_is_none(
    upload: Callable[..., Any], client: TestClient, row: int, status: int
) -> None:
    dataset_id = upload().json()["id"]
    assert client.get(f"/v1/datasets/{dataset_id}/examples/{row}/image").status_code == status


def test_examples_end_when_the_token_is_beyond_the_last(upload: Callable[..., Any], client: TestClient) -> None:
    dataset_id = upload().json()["id"]
    page = client.get(f"/v1/datasets/{dataset_id}/examples?page_token=999999999").json()
    assert page == {"items": [], "next_page_token": None}
    assert client.get(f"/v1/datasets/{dataset_id}/examples?page_token=-1").status_code == 422


def test_delete_removes_the_dataset_and_its_rows(
    upload: Callable[..., Any], client: TestClient, services: Services
) -> None:
    dataset_id = upload().json()["id"]
    with services.database.session(read_only=True) as session:
        blob = service.get(session, DEFAULT_PROJECT, dataset_id).blob
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert client.get(f"/v1/datasets/{dataset_id}").status_code == 404
    assert not services.storage.exists(blob)
    assert upload().status_code == 201


def test_delete_keeps_the_rows_when_another_project_has_the_same(
    upload: Callable[..., Any], client: TestClient, services: Services, other_project: dict[str, str]
) -> None:
    mine = _key(services, DEFAULT_PROJECT)
    dataset_id = upload(headers=mine).json()["id"]
    kept = upload(headers=other_project).json()["id"]
    assert client.delete(f"/v1/datasets/{dataset_id}", headers=mine).status_code == 204
    assert client.get(f"/v1/datasets/{kept}/examples", headers=other_project).json()["items"]


@pytest.mark.parametrize("state", ["queued", "running"])
@pytest.mark.parametrize("key", ["dataset", "sources"])
def test_delete_conflicts_while_an_unfinished_job_names_the_dataset(
    upload: Callable[..., Any], client: TestClient, services: Services, state: str, key: str
) -> None:
    dataset_id = upload().json()["id"]
    job_id = add_job(services, state, {key: dataset_id if key == "dataset" else ["ds_x", dataset_id]})
    response = client.delete(f"/v1/datasets/{dataset_id}")
    assert (response.status_code, response.json()["code"]) == (409, "dataset_in_use")
    assert job_id in response.json()["detail"]
    assert client.get(f"/v1/datasets/{dataset_id}").status_code == 200


def test_delete_conflicts_while_a_meta_learner_names_the_dataset(
    upload: Callable[..., Any], client: TestClient, services: Services
) -> None:
    dataset_id = upload().json()["id"]
    job_id = add_job(services, "succeeded", {"sources": [dataset_id]})
    with services.database.transaction() as session:
        session.add(
            MetaLearner(
                id=new_id("ml"), project_id=DEFAULT_PROJECT, job_id=job_id, name="m", modality="text",
                task="classification", encoder="e", sources=[dataset_id], card={}, artifact="0" * 64, size_bytes=1,
            )
        )  # fmt: skip
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 409


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_delete_succeeds_when_the_jobs_that_named_the_dataset_are_done(
    upload: Callable[..., Any], client: TestClient, services: Services, state: str
) -> None:
    dataset_id = upload().json()["id"]
    add_job(services, state, {"dataset": dataset_id, "sources": None})
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204


def test_openapi_describes_the_upload(client: TestClient) -> None:
    body = client.get("/openapi.json").json()["paths"]["/v1/datasets"]["post"]["requestBody"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert {"file", "name"} <= set(schema["required"])
    assert "input_columns" in schema["properties"]
