"""The exported zip: its files, its bytes, and that its README runs."""

import io
import json
import re
import subprocess
import sys
import zipfile

import pytest

from tests.app.adapted import publish, services_of


def exported(client, name="fruit", number=1):
    answer = client.get(f"/v1/models/{name}/versions/{number}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    return answer.content


def test_export_holds_the_graft_its_header_and_a_readme(client):
    publish(services_of(client), "fruit")
    with zipfile.ZipFile(io.BytesIO(exported(client))) as archive:
        assert archive.namelist() == ["graft.safetensors", "header.json", "README.md"]
        header = json.loads(archive.read("header.json"))
    assert (header["model"], header["version"], header["modality"]) == ("fruit", 1, "tabular")
    assert header["report"]["strategy"] == "target_only"
    assert header["artifact"]["metagraft"]["kind"] == "base_learner"


def test_export_gives_the_same_bytes_each_time(client):
    publish(services_of(client), "fruit")
    assert exported(client) == exported(client)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_export_readme_runs_as_it_stands(client, tmp_path, task):
    publish(services_of(client), "fruit", task=task)
    zipfile.ZipFile(io.BytesIO(exported(client))).extractall(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "run.py"
    script.write_text(code.replace('"column"', '"size"'))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("small" in done.stdout) == (task == "classification")


def test_export_is_unavailable_when_the_stored_graft_is_damaged(client):
    services = services_of(client)
    publish(services, "fruit")
    sha256 = client.get("/v1/models/fruit/versions/1").json()["artifact"]
    path = services.storage.fetch(sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert client.get("/v1/models/fruit/versions/1/export").status_code == 503
