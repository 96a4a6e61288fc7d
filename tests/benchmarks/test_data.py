from pathlib import Path

import pytest
import torch

from benchmarks.learning import data
from benchmarks.learning.features import encode
from benchmarks.learning.results import Bench
from learning.types import Modality


class Counting:
    """An encoder that remembers what it was asked to encode."""

    name, revision, width = "counting", "0", 2
    modality: Modality = "text"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, inputs, *, batch_size=32, progress=None):
        self.seen += list(inputs)
        return torch.tensor([[float(len(x)), 1.0] for x in inputs])


def test_features_are_encoded_once_and_in_order(tmp_path: Path) -> None:
    bench, encoder = Bench(data=tmp_path, cache=tmp_path, quick=True), Counting()
    first = encode(bench, encoder, ["aa", "b"])
    again = encode(bench, encoder, ["b", "ccc", "aa"])
    assert encoder.seen == ["aa", "b", "ccc"]
    assert first[:, 0].tolist() == [2, 1]
    assert again[:, 0].tolist() == [1, 3, 2]


def test_few_takes_as_many_of_every_class_and_is_the_same_for_a_seed() -> None:
    labels = torch.tensor([0, 1, 2]).repeat(10)
    drawn = data.few(labels, 2, seed=3)
    assert torch.bincount(labels[drawn]).tolist() == [2, 2, 2]
    assert torch.equal(drawn, data.few(labels, 2, seed=3))
    assert not torch.equal(drawn, data.few(labels, 2, seed=4))


@pytest.mark.parametrize("domain", data.SENTIMENT_DOMAINS)
def test_reviews_are_read_with_both_labels(shared_data: Path, domain: str) -> None:
    found = data.sentiment(shared_data, domain, "test")
    assert len(found) == 400
    assert found.classes == ("negative", "positive")
    assert len(found.first(300)) == 300


def test_intents_images_and_drawings_are_read(shared_data: Path) -> None:
    clinc = data.clinc150(shared_data, "test")
    assert (len(clinc.classes), len(set(clinc.groups))) == (150, 10)
    assert len(data.banking77(shared_data, "test").classes) == 77
    assert [len(data.pacs(shared_data, domain)) for domain in data.PACS_DOMAINS] == [420] * 3
    alphabets = data.omniglot(shared_data)
    assert len(alphabets) == 30
    assert all(len(found) == 20 * len(found.classes) for found in alphabets.values())
