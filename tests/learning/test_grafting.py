"""Stage A from end to end on a tiny encoder: what is held out, what stage B may see, sources that hardly suffice."""

from typing import Any

import pytest
import torch

from learning.config import EpisodeOptions, GraftOptions, MetaTrainOptions
from learning.errors import Cancelled
from learning.featurisers import Centring
from learning.graft_batches import RawDomain, RawRows
from learning.graft_training import GraftTrainer, Look, best_look, episodic_look
from learning.grafting import Grafting, train_graft
from learning.grafts import Graft
from learning.meta import HonestSources, meta_train
from learning.sources import build_bank
from learning.splits import HeldOutPart, split_after_graft
from learning.types import Domain, Features, labelled_set
from tests.learning.tiny_encoder import TinyEncoder

ENCODER = TinyEncoder()


def domain(name: str, counts: list[int], *, prefix: str = "class", seed: int = 0) -> RawDomain:
    """`counts[c]` rows of class c, around a mean that depends on the class name alone."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = [], []
    for c, count in enumerate(counts):
        mean = torch.randn(6, generator=torch.Generator().manual_seed(100 + c))
        for _ in range(count):
            inputs.append((mean + 0.5 * torch.randn(6, generator=generator)).tolist())
            labels.append(c)
    classes = tuple(f"{prefix}{c:03d}" for c in range(len(counts)))
    return RawDomain(name=name, inputs=inputs, labels_N=torch.tensor(labels), classes=classes)


def grafting_of(sources: list[RawDomain], **options: Any) -> Grafting:
    chosen = GraftOptions(**{"steps": 12, "batch_rows": 16, **options})
    return train_graft(ENCODER, sources, chosen, torch.Generator().manual_seed(0), lambda _done: None)


def encoded(source: RawDomain, graft: Graft | None) -> Domain:
    worn = ENCODER if graft is None else ENCODER.grafted(graft)
    views = {} if graft is None else {graft.digest: worn.encode(source.inputs)}
    features = Features(matrix_NF=ENCODER.encode(source.inputs), grafted=views)
    labels = [source.classes[label] for label in source.labels_N.tolist()]
    return Domain(name=source.name, data=labelled_set(features, labels, "classification"))


@pytest.mark.parametrize(
    "sources",
    [
        [domain("lone", [9, 1] * 4)],
        [domain("lone", [3] * 6)],
        [domain("a", [2] * 205, prefix="a"), domain("b", [2] * 205, prefix="b", seed=1)],
        [domain("a", [5, 5]), domain("b", [1, 1], seed=1)],
        [domain("a", [4]), domain("b", [4], seed=1)],
        [domain("a", [1]), domain("b", [1], seed=1)],
        [domain("a", [5, 5]), domain("b", [5, 5], seed=1), domain("c", [1, 1], seed=2)],
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"held_out_rows": 8}, {"loss": "episodic"}, {"augmentation": "affine_and_turns"}]
)
def test_sources_that_hardly_suffice_are_trained_on_or_left_alone(sources: list[RawDomain], options: dict[str, Any]):
    grafting = grafting_of(sources, **options)
    assert (grafting.graft is None) == (not grafting.report["kept"])
    assert grafting.graft is None or grafting.graft.is_finite
    assert grafting.report["kept"] or grafting.report["reason"]


@pytest.mark.parametrize("steps", [10, 12, 30])
def test_looks_begin_at_the_rootstock_and_end_at_the_end(steps: int):
    report = grafting_of([domain("a", [8] * 4), domain("b", [8] * 4, seed=1)], steps=steps).report
    assert report["looks"][0]["step"] == 0
    assert report["looks"][-1]["step"] == steps


def test_classes_that_come_later_are_placed_without_moving_the_others():
    first, later = (
        RawRows(prepared=source.inputs, size_N=torch.ones(len(source)), vector_N=source.labels_N + offset)
        for source, offset in ((domain("a", [8] * 3), 0), (domain("b", [8] * 3, seed=1), 3))
    )
    trainer = GraftTrainer(ENCODER, 6, GraftOptions(), torch.Generator().manual_seed(0))
    trainer.place_vectors([first])
    before_VF = trainer.vectors.vectors_VF.detach().clone()
    assert before_VF[3:].norm() == 0
    trainer.place_vectors([first, later])
    after_VF = trainer.vectors.vectors_VF.detach()
    torch.testing.assert_close(after_VF.norm(dim=1), torch.ones(6))
    assert torch.equal(after_VF[:3], before_VF[:3])


def test_the_second_go_moves_on_from_the_honest_graft():
    sources = [domain("a", [8] * 4), domain("b", [8] * 4, seed=1)]
    first, second = grafting_of(sources), grafting_of(sources)
    assert first.graft is not None
    assert second.graft is not None
    assert first.honest is not None
    assert first.graft.digest == second.graft.digest != first.honest.digest


def test_own_grafts_are_trained_where_they_are_asked_for():
    sources = [domain("a", [8] * 4), domain("b", [8] * 4, seed=1)]
    grafting = grafting_of(sources, source_steps=4)
    assert set(grafting.sources) == {"a", "b"}
    assert grafting.graft is not None
    digests = {graft.digest for graft in grafting.sources.values()} | {grafting.graft.digest}
    assert len(digests) == 3
    assert not grafting_of(sources).sources


def test_training_ends_when_it_is_cancelled():
    def stop(done: float) -> None:
        if done > 0.3:
            raise Cancelled("stop")

    sources = [domain("a", [8] * 4), domain("b", [8] * 4, seed=1)]
    with pytest.raises(Cancelled):
        train_graft(ENCODER, sources, GraftOptions(steps=20), torch.Generator(), stop)


@pytest.mark.parametrize("lone", [True, False])
def test_episodes_after_a_graft_play_in_the_held_out_part_alone(lone: bool):
    sources = [domain("a", [6] * 12)] if lone else [domain(name, [6] * 4, seed=i) for i, name in enumerate("abc")]
    part = HeldOutPart(domain=None, classes=("class001", "class004", "class007", "class009")) if lone else None
    part = part or HeldOutPart(domain="b", classes=())
    domains = [encoded(source, None) for source in sources]
    bank = build_bank(domains, Centring().fit([d.data.inputs for d in domains]), max_rows=999,
                      generator=torch.Generator())  # fmt: skip
    split = split_after_graft(bank, part, EpisodeOptions(), torch.Generator().manual_seed(0))
    held_N = part.rows(bank)
    assert held_N.any()
    assert not (split.train.pool_N & ~held_N).any()
    assert not (split.held_out.pool_N & ~held_N).any()
    assert not (split.train.pool_N & split.held_out.pool_N).any()
    assert not (split.metric_rows_N & held_N).any()


def test_card_compares_with_the_rootstock_and_not_with_the_graft():
    """Under this 'graft' every feature tells the class, by the rootstock none does: all of it is transfer's gain."""
    generator = torch.Generator().manual_seed(0)
    names = ("a", "b", "c")
    domains, honest = [], []
    for name in names:
        labels = ["no", "yes"] * 40
        telling = torch.tensor([[float(label == "yes")] * 12 for label in labels])
        telling = telling + 0.1 * torch.randn(telling.shape, generator=generator)
        noise = torch.randn(telling.shape, generator=generator)
        features = Features(matrix_NF=noise, grafted={"g": telling})
        domains.append(Domain(name=name, data=labelled_set(features, labels, "classification")))
        honest.append(domains[-1])
    learner = meta_train(
        sources=domains, featuriser=Centring(graft="g"), modality="text", encoder="tiny", encoder_revision="",
        columns={}, options=MetaTrainOptions(steps=2, evaluation_episodes=10, evaluation_shots=(2,)), seed=0,
        progress=lambda _fraction, _phase: None,
        honest=HonestSources(
            domains=honest, featuriser=Centring(graft="g"), alone=Centring(),
            held_out=HeldOutPart(domain="b", classes=()),
        ),
    )  # fmt: skip
    entry = learner.card["episodes"][0]
    assert entry["target_only"]["score"] < 0.65
    assert entry["metric"]["score"] > 0.95


@pytest.mark.parametrize(
    ("losses", "step"),
    [([2.0, 1.0, 1.5], 1), ([2.0, 1.0, 1.02], 2), ([2.0, 1.02, 1.5, 1.0], 3), ([1.0, 1.01, 1.2], 0), ([1.0], 0)],
)
def test_of_looks_that_cannot_be_told_apart_the_last_is_kept_but_never_instead_of_the_rootstock(
    losses: list[float], step: int
) -> None:
    looks = [Look(step=i, seconds=0.0, loss=0.0, held_out=loss) for i, loss in enumerate(losses)]
    assert best_look(looks).step == step


def test_a_look_prefers_features_that_sort_well_to_features_that_are_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    vector_N = torch.arange(4).repeat_interleave(10)
    held = RawRows(prepared=range(40), size_N=torch.ones(40), vector_N=vector_N)
    means_NF, noise_NF = torch.eye(8)[vector_N], torch.randn(40, 8, generator=generator)
    near, far = (
        torch.nn.functional.normalize(rows, dim=1)
        for rows in (torch.ones(8) + 0.3 * (means_NF + 0.1 * noise_NF), means_NF + 0.5 * noise_NF)
    )
    assert episodic_look(held, near, batch_rows=16) < episodic_look(held, far, batch_rows=16)
