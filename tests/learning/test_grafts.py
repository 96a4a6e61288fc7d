"""Grafts: what they move, that zero is the rootstock, and that training one helps an unseen domain."""

import pytest
import torch
from PIL import Image

from learning.config import GraftOptions
from learning.encoders.registry import load_encoder
from learning.errors import IncompatibleDomain
from learning.graft_batches import BatchSampler, RawDomain, RawRows
from learning.grafting import train_graft
from learning.grafts import Graft, Graftable, mixed, zero_graft

TEXTS = ["a short one", "the very same thing said at a greater length, with many more words", "x"]


@pytest.fixture(scope="module")
def minilm() -> Graftable:
    return load_encoder("minilm-l6-v2")  # type: ignore[return-value]


def random_graft(encoder: Graftable, seed: int = 0, scale: float = 0.05) -> Graft:
    generator = torch.Generator().manual_seed(seed)
    points = encoder.graft_points()
    return Graft(
        offsets={name: scale * torch.randn(value.shape, generator=generator) for name, value in points.items()}
    ).stored()


def inputs_of(name: str) -> list[object]:
    if name == "minilm-l6-v2":
        return list(TEXTS)
    return [Image.new("RGB", (40 + 9 * i, 60), (60 * i, 200 - 50 * i, 30)) for i in range(3)]


@pytest.mark.parametrize(("name", "numbers"), [("minilm-l6-v2", 9_984), ("efficientnet-lite0", 42_016)])
def test_graft_moves_every_normalisation_and_zero_moves_nothing(name: str, numbers: int):
    encoder: Graftable = load_encoder(name)  # type: ignore[assignment]
    inputs, graft = inputs_of(name), random_graft(encoder)
    assert graft.n_numbers == numbers
    rootstock = encoder.encode(inputs)
    moved = encoder.grafted(graft).encode(inputs)
    assert (moved - rootstock).abs().max() > 0.01
    torch.testing.assert_close(encoder.encode(inputs), rootstock, rtol=0, atol=0)  # the rootstock itself stays
    zero = zero_graft(encoder.graft_points())
    torch.testing.assert_close(encoder.grafted(zero).encode(inputs), rootstock, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["minilm-l6-v2", "efficientnet-lite0"])
def test_training_and_serving_compute_the_same_features(name: str):
    encoder: Graftable = load_encoder(name)  # type: ignore[assignment]
    inputs, graft = inputs_of(name), random_graft(encoder)
    values = {point: value + graft.offsets[point] for point, value in encoder.graft_points().items()}
    trained = encoder.differentiate(encoder.prepare(inputs), values)
    torch.testing.assert_close(encoder.grafted(graft).encode(inputs), trained, rtol=0, atol=1e-5)


def test_graft_on_a_graft_adds_up(minilm: Graftable):
    first, second = random_graft(minilm, 1), random_graft(minilm, 2)
    both = mixed([first, second], [1.0, 1.0])
    torch.testing.assert_close(
        minilm.grafted(first).grafted(second).encode(TEXTS), minilm.grafted(both).encode(TEXTS), rtol=0, atol=1e-5
    )


def test_revision_and_digest_name_the_graft(minilm: Graftable):
    first, second = random_graft(minilm, 1), random_graft(minilm, 2)
    assert first.digest == random_graft(minilm, 1).digest != second.digest
    assert minilm.grafted(first).revision == f"{minilm.revision}-{first.digest}"


def test_graft_of_another_encoder_is_refused(minilm: Graftable):
    lite0: Graftable = load_encoder("efficientnet-lite0")  # type: ignore[assignment]
    with pytest.raises(IncompatibleDomain, match="does not fit"):
        lite0.grafted(random_graft(minilm))


def rows(vectors: list[int], sizes: list[int] | None = None) -> RawRows:
    return RawRows(
        prepared=list(range(len(vectors))), size_N=torch.tensor(sizes or [1] * len(vectors)),
        vector_N=torch.tensor(vectors),
    )  # fmt: skip


def test_batches_cross_domains_only_where_labels_are_shared():
    shared = BatchSampler(domains=[rows([0, 0, 1, 1]), rows([0, 0, 1, 1])], n_vectors=4, batch_rows=8)
    apart = BatchSampler(domains=[rows([0, 0, 1, 1]), rows([2, 2, 3, 3])], n_vectors=4, batch_rows=8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = shared.draw(generator)
        assert set(batch.vector_B[batch.support_B].tolist()) == set(batch.vector_B[~batch.support_B].tolist()) == {0, 1}
        batch = apart.draw(generator)
        assert set(batch.vector_B.tolist()) in ({0, 1}, {2, 3})
        assert batch.open_BV.sum(1).tolist() == [2] * len(batch.vector_B)
        # Of one domain no row is support and query at once.
        assert len(set(batch.prepared)) == len(batch.prepared)


def test_rows_of_a_batch_are_of_like_size():
    sampler = BatchSampler(domains=[rows([0, 1] * 100, list(range(200)))], n_vectors=2, batch_rows=16)
    generator = torch.Generator().manual_seed(0)
    spreads = [max(b.prepared) - min(b.prepared) for b in (sampler.draw(generator) for _ in range(20))]
    assert max(spreads) <= 60


WORDS = {"good": ["splendid", "lovely", "delightful", "superb"], "bad": ["dreadful", "awful", "horrid", "broken"]}
THINGS = {"garden": ["hose", "spade", "rake", "hedge"], "kitchen": ["pan", "kettle", "knife", "oven"],
          "music": ["violin", "drum", "amp", "flute"]}  # fmt: skip


def reviews(domain: str) -> RawDomain:
    texts = [(f"this {thing} is {word}", y) for thing in THINGS[domain] for y in WORDS for word in WORDS[y]]
    return RawDomain(
        name=domain, inputs=[text for text, _ in texts], labels_N=torch.tensor([int(y == "good") for _, y in texts]),
        classes=("bad", "good"),
    )  # fmt: skip


def test_training_lowers_the_loss_of_the_held_out_source_and_repeats_itself(minilm: Graftable):
    options = GraftOptions(steps=12, batch_rows=16)

    def train() -> tuple[object, float, float]:
        grafting = train_graft(
            minilm, [reviews(d) for d in THINGS], options, torch.Generator().manual_seed(1), lambda _done: None
        )
        losses = grafting.report["held_out_loss"]
        assert grafting.graft is not None
        return grafting.graft.digest, losses["graft"], losses["rootstock"]

    digest, after, before = train()
    assert after < 0.8 * before
    assert train() == (digest, after, before)


def test_sources_that_cannot_be_held_out_give_no_graft(minilm: Graftable):
    grafting = train_graft(minilm, [reviews("garden")], GraftOptions(), torch.Generator(), lambda _done: None)
    assert grafting.graft is None
    assert not grafting.report["kept"]
