"""Servers of others: started, found missing, and weighed with their children."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import free_port, until
from benchmarks.serving import trees
from benchmarks.serving.peers.running import PEERS, Place
from benchmarks.serving.systems import CannotStart, server

BUSY = "import os, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(60)"


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[bytes]"]:
    """A process whose child computes for 0.3 s."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        yield process
        os.killpg(process.pid, 9)


def test_computing_of_children_counts_as_the_trees(parent) -> None:
    assert until(lambda: trees.cpu_seconds(parent.pid) >= 0.3, 90)


def test_memory_of_a_tree_is_more_than_that_of_its_root(parent) -> None:
    parent.stdout.readline()
    own, whole = trees.memory(os.getpid()), trees.memory(parent.pid)
    assert 0 < own.pss <= own.rss
    assert 0 < whole.pss < whole.rss


def test_computing_of_a_process_that_is_gone_is_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert trees.cpu_seconds(process.pid) == 0


def test_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path) -> None:
    command = [sys.executable, "-c", "print('no such luck')"]
    with (
        pytest.raises(CannotStart, match="no such luck"),
        server(command, {}, f"http://127.0.0.1:{free_port()}/", tmp_path / "log"),
    ):
        pass


def test_server_is_ready_when_it_answers_and_is_ended_with_the_block(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with server(command, {}, f"http://127.0.0.1:{port}/", tmp_path / "log") as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_place_names_the_models_that_lie_in_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text("{}")
    assert Place(models=tmp_path, work=tmp_path, environments=tmp_path).names == ["a", "b"]


@pytest.mark.parametrize("name", ["mlserver", "mlflow", "bentoml", "onnxruntime", "plot"])
def test_requirements_of_a_peer_are_exact_and_without_another_torch(name) -> None:
    lines = (Path(trees.__file__).parent / "peers" / f"{name}.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    assert not {line.partition("==")[0].lower() for line in lines} & {"torch", "transformers", "triton"}


def test_names_of_peers_are_their_own() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
