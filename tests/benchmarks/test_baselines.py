import pytest
import torch

from benchmarks.learning.baselines.kmm import kmm, matching_weights
from benchmarks.learning.baselines.logistic import target_only
from benchmarks.learning.baselines.pooled import pooled
from benchmarks.learning.baselines.problem import Baseline, Problem
from benchmarks.learning.baselines.setfit import balanced_pairs, round_pairs, train_setfit
from benchmarks.learning.baselines.tradaboost import tradaboost
from learning.encoders.text import load_minilm

CENTRES = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])


def draw(n_per_class: int, seed: int, noise: float = 1.6) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(3).repeat(n_per_class)
    generator = torch.Generator().manual_seed(seed)
    return CENTRES[labels] + noise * torch.randn(len(labels), 2, generator=generator), labels


def problem(*, flipped: bool = False, shots: int = 1) -> Problem:
    support, support_labels = draw(shots, seed=1)
    source, source_labels = draw(60, seed=2)
    return Problem(
        support_SF=support,
        support_labels_S=support_labels,
        source_MF=source,
        source_labels_M=(source_labels + 1) % 3 if flipped else source_labels,
        n_classes=3,
    )


def share_right(baseline: Baseline, of: Problem) -> float:
    query, labels = draw(100, seed=3)
    return float((baseline(of, query).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("baseline", [pooled, kmm, tradaboost])
def test_baseline_gains_from_honest_sources(baseline: Baseline) -> None:
    assert share_right(baseline, problem()) > share_right(target_only, problem()) + 0.02


def test_tradaboost_gives_up_sources_that_the_target_contradicts() -> None:
    flipped = problem(flipped=True, shots=10)
    assert share_right(tradaboost, flipped) > share_right(pooled, flipped) + 0.2


def test_target_only_ignores_sources() -> None:
    query, _ = draw(5, seed=4)
    assert torch.equal(target_only(problem(), query), target_only(problem(flipped=True), query))


def test_matching_weights_move_the_source_mean_to_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(300, 1, generator=generator), torch.randn(200, 1, generator=generator) + 1
    weights = matching_weights(source, target, gamma=0.5)
    assert float(weights.min()) >= 0
    assert float(source.mean()) < 0.2
    assert float(weights @ source.double()[:, 0] / weights.sum()) == pytest.approx(float(target.mean()), abs=0.1)


def test_pairs_of_setfit_are_balanced_and_say_what_is_alike() -> None:
    labels, generator = ["a", "a", "a", "b", "b"], torch.Generator().manual_seed(0)
    for pairs in (round_pairs(labels, 3, generator), balanced_pairs(labels, generator)):
        assert sum(pair[2] for pair in pairs) * 2 == len(pairs)
        assert all((labels[i] == labels[j]) == bool(same) for i, j, same in pairs)
    assert len(round_pairs(labels, 3, generator)) == 2 * 3 * len(labels)


def test_setfit_learns_its_texts_and_leaves_the_encoder_alone() -> None:
    encoder = load_minilm()
    texts, labels = ["I loved it", "a joy", "dreadful", "I hated it"], ["good", "good", "bad", "bad"]
    before = encoder.encode(texts)
    model = train_setfit(encoder, texts, labels, seed=0, rounds=4)
    assert model.predict(texts) == labels
    assert torch.equal(encoder.encode(texts), before)
    moved = model.encoder.encode(texts)
    assert float(moved[0] @ moved[1] - moved[0] @ moved[2]) > float(before[0] @ before[1] - before[0] @ before[2])
