"""Predict calls with image files."""

import base64
import io
import zipfile

import pytest
from PIL import Image

from benchmarks.fuzz.attacks import harmless, images
from tests.app.adapted import adapted, encoded, publish, services_of


def png(colour: str, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["sqlite"])
def database_url(request, tmp_path, sqlite_template):
    """What the database is makes no difference to files, so one kind will do."""
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def test_predict_answers_files_and_puts_errors_in_the_place_of_bad_ones(client):
    images = [png(colour, size) for colour in ("red", "blue") for size in (40, 50, 60)]
    examples = encoded("image", images, ["warm"] * 3 + ["cold"] * 3)
    publish(services_of(client), "tint", adapted(services_of(client).inference, examples), modality="image")
    parts = [("files", ("a.png", png("red", 45))), ("files", ("b.png", b"no image")), ("files", ("", b"text"))]
    parts.append(("files", ("c.png", png("blue", 45))))
    answer = client.post("/v1/models/tint/predict", files=parts, data={"top_k": "1", "explain": "true"})
    assert answer.status_code == 200
    first, *bad, last = answer.json()["predictions"]
    assert [entry.keys() for entry in bad] == [{"error"}] * 2
    assert (first["label"], last["label"]) == ("warm", "cold")
    assert len(first["probabilities"]) == 1
    assert first["evidence"]

    for data, pointer in (({"top_k": "x"}, "/body/top_k"), ({"other": "1"}, "/body/other")):
        wrong = client.post("/v1/models/tint/predict", files=parts, data=data)
        assert wrong.status_code == 422
        assert wrong.json()["errors"][0]["pointer"] == pointer
    assert client.post("/v1/models/tint/predict", data={"top_k": "1"}, files={"other": b"x"}).status_code == 422
    too_many = [("files", (f"{i}.png", b"")) for i in range(1001)]
    assert 400 <= client.post("/v1/models/tint/predict", files=too_many).status_code < 500
    torn = client.post(
        "/v1/models/tint/predict", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= torn.status_code < 500
    nothing = client.post("/v1/models/tint/predict", content=b"", headers={"Content-Type": "multipart/form-data"})
    assert 400 <= nothing.status_code < 500


def picture_in(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(name)


def tinted(client) -> str:
    """The path of a model of two colours."""
    inputs = [png(colour, size) for colour in ("red", "blue") for size in (40, 50)]
    examples = encoded("image", inputs, ["warm"] * 2 + ["cold"] * 2)
    publish(services_of(client), "tint", adapted(services_of(client).inference, examples), modality="image")
    return "/v1/models/tint/predict"


def test_predict_says_of_each_crafted_picture_what_is_wrong(client):
    path = tinted(client)
    crafted = [(attack, picture_in(attack.make(), "cat/9.png")) for attack in images.ATTACKS]
    parts = [("files", ("a.png", picture)) for _, picture in crafted]
    answer = client.post(path, files=[*parts, ("files", ("b.png", png("red")))])
    assert answer.status_code == 200, answer.text
    *bad, good = answer.json()["predictions"]
    wrong = [attack.name for (attack, _), entry in zip(crafted, bad, strict=True) if "error" not in entry]
    assert wrong == []
    assert {entry["error"]["code"] for entry in bad} >= {"too_many_pixels", "too_many_scans", "not_an_image"}
    assert good["label"] == "warm"

    inputs = [base64.b64encode(picture).decode() for _, picture in crafted]
    answer = client.post(path, json={"inputs": inputs})
    assert answer.status_code == 200
    assert [entry["error"]["code"] for entry in answer.json()["predictions"]] == [
        entry["error"]["code"] for entry in bad
    ]


def test_predict_answers_every_picture_that_an_upload_may_hold(client):
    odd = {case.name: picture_in(case.make(), "cat/odd") for case in harmless.IMAGES}
    answer = client.post(tinted(client), files=[("files", (f"{i}.png", data)) for i, data in enumerate(odd.values())])
    assert answer.status_code == 200, answer.text
    wrong = [name for name, entry in zip(odd, answer.json()["predictions"], strict=True) if "error" in entry]
    assert wrong == []
