"""Which source a target should be given first."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from learning.encoders.tabular import QuantileFeaturiser
from learning.featurisers import Centring
from learning.sources import SourceBank, build_bank
from learning.support_head import support_targets
from learning.transferability import SourceScore, energy_distance, rank_sources
from learning.types import Domain, Features, Featuriser, LabelledSet, Table, labelled_set
from tests.learning.problems import CLASSES, WIDTH, blobs, run, slopes

HEART = Path(__file__).parents[3] / "shared" / "data" / "heart"


def bank_of(sources: Sequence[LabelledSet], featuriser: Featuriser | None = None) -> tuple[SourceBank, Featuriser]:
    featuriser = featuriser or Centring()
    fitted = featuriser.fit([data.inputs for data in sources])
    domains = [Domain(name=str(place), data=data) for place, data in enumerate(sources)]
    return build_bank(domains, fitted, max_rows=500, generator=torch.Generator().manual_seed(0)), featuriser


def ranked(
    sources: Sequence[LabelledSet], target: LabelledSet, featuriser: Featuriser | None = None
) -> tuple[SourceScore, ...]:
    bank, featuriser = bank_of(sources, featuriser)
    features_SF = featuriser.fit([data.inputs for data in sources]).transform(target.inputs)
    return rank_sources(bank, features_SF, *support_targets(target), target.classes)


def relabelled(data: LabelledSet, names: Sequence[str]) -> LabelledSet:
    return labelled_set(data.inputs, [names[y] for y in data.labels_N.tolist()], "classification")


def noise(seed: int, n: int, classes: Sequence[str] = CLASSES) -> LabelledSet:
    rows = 2 * torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))
    return labelled_set(Features(matrix_NF=rows), [classes[i % len(classes)] for i in range(n)], "classification")


@pytest.mark.parametrize("shots", [2, 8])
def test_related_source_ranks_before_one_of_other_labels_and_one_of_noise(shots: int) -> None:
    sources = [noise(5, 90), relabelled(blobs(2, 30), ("fine", "good", "bad")), blobs(1, 30)]
    for seed in range(20, 25):
        scores = ranked(sources, blobs(seed, shots, shift=0.2))
        assert scores[2].rank == 1
        assert scores[2].score > 0
        assert scores[1].score < scores[2].score - 0.5


def test_source_of_wrong_labels_scores_below_no_source_at_all() -> None:
    scores = ranked([blobs(1, 30), relabelled(blobs(2, 30), ("fine", "good", "bad"))], blobs(20, 10))
    assert scores[0].score > 0 > scores[1].score


def test_ranks_are_a_permutation_that_follows_the_sources() -> None:
    sources = [blobs(1, 30), noise(5, 90), blobs(2, 30, shift=3.0), relabelled(blobs(3, 30), ("good", "bad", "fine"))]
    scores = ranked(sources, blobs(20, 4))
    assert sorted(score.rank for score in scores) == [1, 2, 3, 4]
    backwards = ranked(sources[::-1], blobs(20, 4))[::-1]
    assert [score.rank for score in scores] == [score.rank for score in backwards]
    for first, second in zip(scores, backwards, strict=True):
        assert first.score == pytest.approx(second.score, abs=1e-4)


def test_source_of_the_same_inputs_ranks_first_when_no_label_is_shared() -> None:
    other = labelled_set(
        Features(matrix_NF=3 + torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(0))),
        ["u", "v"] * 30,
        "classification",
    )
    scores = ranked([other, relabelled(blobs(1, 30), ("x", "y", "z"))], blobs(20, 3))
    assert scores[1].rank == 1
    assert scores[1].distance < scores[0].distance


def test_regression_source_of_the_same_slope_ranks_before_one_of_the_opposite_slope() -> None:
    same = slopes(1, 80)
    opposite = LabelledSet(inputs=same.inputs, labels_N=-same.labels_N)
    scores = ranked([opposite, slopes(2, 80)], slopes(20, 12))
    assert scores[1].rank == 1
    assert scores[1].score > 0 > scores[0].score


@pytest.mark.parametrize("target", [blobs(20, 1), blobs(20, 1, classes=("x", "y")), slopes(20, 2)])
def test_two_rows_and_one_shot_give_finite_scores(target: LabelledSet) -> None:
    sources = [slopes(1, 40), slopes(2, 2)] if not target.classes else [blobs(1, 30), blobs(2, 1)]
    for score in ranked(sources, target):
        assert np.isfinite(score.score)
        assert 0 <= score.distance <= 1


def test_constant_features_give_finite_scores() -> None:
    flat = labelled_set(Features(matrix_NF=torch.ones(4, WIDTH)), ["bad", "good"] * 2, "classification")
    scores = ranked([flat, flat], flat)
    assert all(np.isfinite(score.score) and score.distance == 0 for score in scores)


def test_energy_distance_is_zero_of_one_distribution_and_one_of_two_points() -> None:
    rows = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    assert energy_distance(rows[:300], rows[300:]) < 0.01
    assert energy_distance(torch.zeros(2, 3), torch.ones(2, 3)) == 1.0


def test_report_ranks_the_sources() -> None:
    using = [
        Domain(name="permuted", data=relabelled(blobs(2, 30), ("fine", "good", "bad"))),
        Domain(name="related", data=blobs(1, 30)),
    ]
    entries = {entry["dataset"]: entry for entry in run("auto", blobs(20, 5), using=using).report["sources"]}
    assert entries["related"]["rank"] == 1
    assert entries["permuted"]["rank"] == 2
    assert entries["related"]["transferability"]["measure"] == "log_evidence_gain"
    assert entries["related"]["transferability"]["score"] > entries["permuted"]["transferability"]["score"]
    assert 0 <= entries["related"]["distance"] <= 1


def hospital(name: str) -> LabelledSet:
    with (HEART / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row.pop("disease") for row in rows]
    columns = {key: np.array([float(row[key]) if row[key] else np.nan for row in rows]) for key in rows[0]}
    return labelled_set(Table(numeric=columns, categorical={}), labels, "classification")


@pytest.mark.skipif(not HEART.exists(), reason="the development data is not beside the checkout")
def test_hospital_ranks_before_the_same_hospital_with_flipped_labels() -> None:
    target, related = hospital("hungary"), hospital("cleveland")
    sources = [relabelled(related, related.classes[::-1]), related]
    for seed in range(5):
        order_N = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        support = target.select(torch.cat([order_N[target.labels_N[order_N] == label][:8] for label in (0, 1)]))
        assert ranked(sources, support, QuantileFeaturiser())[1].rank == 1
