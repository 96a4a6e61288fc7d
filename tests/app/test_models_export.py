"""The exported zip: its files, its bytes, and that its README runs."""

import io
import json
import re
import subprocess
import threading
import zipfile

import pytest

from app.tables import ModelVersion
from tests.app.adapted import publish, services_of
from tests.app.exported import assert_alike, run_alone

#: What happens to the zip afterwards needs no second database.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def exported(client, name="fruit", number=1):
    answer = client.get(f"/v1/models/{name}/versions/{number}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer.content


def unpacked(client, folder):
    zipfile.ZipFile(io.BytesIO(exported(client))).extractall(folder)


def test_export_holds_what_answers_and_what_it_is(client):
    publish(services_of(client), "fruit")
    with zipfile.ZipFile(io.BytesIO(exported(client))) as archive:
        assert archive.namelist() == [
            "README.md", "header.json", "graft.safetensors", "model.onnx", "model.json", "predict.py",
            "table_reading.py", "requirements.txt",
        ]  # fmt: skip
        header = json.loads(archive.read("header.json"))
    assert (header["model"], header["version"], header["modality"]) == ("fruit", 1, "tabular")
    assert header["report"]["strategy"] == "target_only"
    assert header["artifact"]["metagraft"]["kind"] == "base_learner"


def test_export_gives_the_same_bytes_each_time(client):
    publish(services_of(client), "fruit")
    assert exported(client) == exported(client)


@on_sqlite
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_exported_command_answers_as_the_service(client, tmp_path, task):
    publish(services_of(client), "fruit", task=task)
    unpacked(client, tmp_path)
    rows = [{"size": 1.4, "colour": "red"}, {"size": "9", "other": 3}, {"colour": "green"}, {"size": None}]
    served = client.post("/v1/models/fruit/predict", json={"inputs": rows}).json()["predictions"]
    lines = run_alone(tmp_path, stdin="".join(json.dumps(row) + "\n" for row in rows))
    assert_alike([json.loads(line) for line in lines], served)


@on_sqlite
def test_exported_command_says_what_is_wrong_when_a_row_is_bad(client, tmp_path):
    publish(services_of(client), "fruit")
    unpacked(client, tmp_path)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_alone(tmp_path, '{"size": "large"}')
    assert caught.value.stderr == "predict.py: column 'size': 'large' is not a finite number\n"


@on_sqlite
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_export_readme_runs_as_it_stands(client, tmp_path, task):
    publish(services_of(client), "fruit", task=task)
    unpacked(client, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "run.py").write_text(code)
    (printed,) = run_alone(tmp_path, script="run.py")
    assert ("'label'" in printed) == (task == "classification")


def test_export_is_unavailable_when_the_stored_graft_is_damaged(client):
    services = services_of(client)
    publish(services, "fruit")
    sha256 = client.get("/v1/models/fruit/versions/1").json()["artifact"]
    path = services.storage.fetch(sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert client.get("/v1/models/fruit/versions/1/export").status_code == 503


def test_export_says_that_the_model_is_corrupted_when_it_is_none(client):
    services = services_of(client)
    number = publish(services, "fruit")
    sha256 = services.storage.put_bytes(b"no model")
    with services.database.transaction() as session:
        session.query(ModelVersion).filter_by(number=number).update({"artifact": sha256})
    answer = client.get("/v1/models/fruit/versions/1/export")
    assert (answer.status_code, answer.json()["code"]) == (500, "artifact_corrupted")


def test_export_waits_for_its_turn_when_another_is_being_made(client):
    services = services_of(client)
    publish(services, "fruit")
    found = []
    with services.inference.exporter.turn():
        thread = threading.Thread(target=lambda: found.append(exported(client)))
        thread.start()
        assert not found
    thread.join(90)
    assert found == [exported(client)]
