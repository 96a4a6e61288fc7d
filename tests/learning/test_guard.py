from dataclasses import replace
from typing import Any

import pytest
import torch

from learning.config import AutoOptions
from learning.guard import (
    MISLEADING,
    Prior,
    card_prior,
    choose,
    describe_choice,
    is_worse_than_chance,
    paired_gain,
)
from learning.types import Domain, Features, labelled_set
from tests.learning.problems import CLASSES, accuracy, blobs, noisy, run, sources


def card(*gains: tuple[int, float]) -> dict[str, object]:
    return {"episodes": [{"shots": s, "metric": {"gain": {"value": g, "deviation": 0.1}}} for s, g in gains]}


def test_card_prior_interpolates_between_numbers_of_shots() -> None:
    assert card_prior(card((1, 0.2), (4, 0.0)), "metric", 2).mean == pytest.approx(0.1)


def test_card_prior_keeps_its_ends_beyond_them() -> None:
    known = card((2, 0.2), (4, 0.1))
    assert card_prior(known, "metric", 1).mean == pytest.approx(0.2)
    assert card_prior(known, "metric", 100).mean == pytest.approx(0.1)


def test_card_prior_expects_nothing_without_a_card() -> None:
    assert card_prior(None, "metric", 5).mean == 0.0


def test_posterior_gain_equals_the_hand_computed_precision_weighting() -> None:
    difference = torch.tensor([0.2, 0.4, 0.3, 0.3])
    gain = paired_gain(difference, torch.zeros(4), Prior(mean=0.1, deviation=0.2), worse_than_chance=False)
    error_squared = (0.02 + 2 * 0.3**2) / (3 + 2) / 4
    expected = (0.3 / error_squared + 0.1 / 0.04) / (1 / error_squared + 1 / 0.04)
    assert gain.mean == pytest.approx(expected, rel=1e-5)
    assert gain.evidence == pytest.approx(0.3)


def test_guard_keeps_target_only_when_the_gain_is_within_its_error() -> None:
    small = paired_gain(torch.full((5,), 0.01), torch.zeros(5), Prior(promised=True), worse_than_chance=False)
    assert choose({"metric": small}, 1.0) == "target_only"
    assert choose({"metric": small}, 0.0) == "metric"


def test_a_gain_that_no_card_promises_has_to_be_clearer() -> None:
    slight, clear = (
        paired_gain(torch.full((16,), by), torch.zeros(16), Prior(), worse_than_chance=False) for by in (0.01, 0.3)
    )
    assert choose({"metric": slight}, 0.0) == "target_only"
    assert choose({"metric": clear}, 0.0) == "metric"


@pytest.mark.parametrize(
    ("gain", "half", "meta_trained", "promised"),
    [(0.05, 0.02, False, True), (0.05, 0.04, False, False), (0.01, 0.001, False, False), (0.01, 0.04, True, True)],
)
def test_sources_promise_what_they_gain_from_each_other_beyond_doubt(
    gain: float, half: float, meta_trained: bool, promised: bool
) -> None:
    entry = {"value": gain, "interval": (gain - half, gain + half), "deviation": 0.1}
    known = {"meta_trained": meta_trained, "episodes": [{"shots": 5, "metric": {"gain": entry}}]}
    assert card_prior(known, "metric", 5).promised == promised


def test_guard_refuses_a_contradicted_candidate_whatever_the_card_says() -> None:
    prior = Prior(mean=0.5, deviation=0.05)
    harmful = paired_gain(torch.full((8,), -0.3), torch.zeros(8), prior, worse_than_chance=False)
    assert harmful.contradicted
    assert choose({"metric": harmful}, 1.0) == "target_only"


def promising(**changes: Any) -> Prior:
    """What a card of honest sources says at eight shots, and what these say of the rows."""
    return replace(Prior(mean=0.1, deviation=0.05, promised=True, misled=0.02), **changes)


def test_guard_does_not_take_a_cards_word_for_sources_that_mislead() -> None:
    slight, nothing = torch.full((4,), 0.0), torch.zeros(4)
    misled = paired_gain(slight, nothing, promising(misled=0.8), worse_than_chance=False)
    trusted = paired_gain(slight, nothing, promising(misled=0.02), worse_than_chance=False)
    assert choose({"metric": misled}, AutoOptions().guard_standard_errors) == "target_only"
    assert choose({"metric": trusted}, AutoOptions().guard_standard_errors) == "metric"


@pytest.mark.parametrize(("misled", "kept"), [(0.25, "metric"), (0.35, "target_only")])
def test_sources_in_doubt_have_to_win_clearly(misled: float, kept: str) -> None:
    """Their posterior gain is about the same, half a deviation above zero."""
    undecided = torch.tensor([0.2, -0.2] * 8)
    gain = paired_gain(undecided, torch.zeros(16), promising(misled=misled), worse_than_chance=False)
    assert 0.25 * gain.deviation < gain.mean < gain.deviation
    assert choose({"metric": gain}, 0.25) == kept


def test_two_missed_rows_speak_against_a_transfer_only_where_the_sources_cannot_be_asked() -> None:
    none, known = torch.zeros(0), promising(mean=0.3, error=0.01)
    unasked = paired_gain(none, none, replace(known, misled=None), worse_than_chance=True)
    assert unasked.contradicted
    asked = paired_gain(none, none, replace(known, misled=0.2), worse_than_chance=True)
    assert not asked.contradicted
    assert asked.mean > 0
    refuted = paired_gain(none, none, replace(known, misled=0.9), worse_than_chance=True)
    assert choose({"metric": refuted}, AutoOptions().guard_standard_errors) == "target_only"


@pytest.mark.parametrize(
    ("prior", "fewer_hits", "contradicted"),
    [
        (promising(), False, False),
        (promising(), True, True),
        (promising(misled=MISLEADING), False, True),
        (promising(misled=None), False, True),
        (promising(promised=False), False, True),
    ],
)
def test_scores_alone_do_not_contradict_as_many_hits_where_the_sources_are_trusted(
    prior: Prior, fewer_hits: bool, contradicted: bool
) -> None:
    less_sure = torch.full((10,), -0.2)
    gain = paired_gain(less_sure, torch.zeros(10), prior, worse_than_chance=False, fewer_hits=fewer_hits)
    assert gain.contradicted == contradicted


def test_chance_is_told_from_held_out_answers() -> None:
    support = labelled_set(Features(matrix_NF=torch.zeros(4, 1)), ["a", "a", "b", "b"], "classification")
    right, wrong = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), torch.tensor([[0.0, 1], [0, 1], [0, 1], [1, 0]])
    assert not is_worse_than_chance(right, support)
    assert is_worse_than_chance(wrong, support)


@pytest.mark.parametrize("n_rows", [2, 3, 5, 20])
def test_the_mean_of_the_other_rows_is_not_worse_than_chance(n_rows: int) -> None:
    labels = torch.rand(n_rows, generator=torch.Generator().manual_seed(0)).double()
    support = labelled_set(Features(matrix_NF=torch.zeros(n_rows, 1)), labels.tolist(), "regression")
    mean_of_others = ((labels.sum() - labels) / (n_rows - 1))[:, None]
    assert not is_worse_than_chance(mean_of_others, support)
    assert is_worse_than_chance(2 * mean_of_others + 1, support)


def test_report_does_not_deny_that_the_target_speaks_against_what_was_asked_for() -> None:
    harmful = paired_gain(torch.full((8,), -0.3), torch.zeros(8), Prior(), worse_than_chance=False)
    assert "speak against it" in describe_choice("metric", {"metric": harmful}, ["target_only", "metric"])
    assert "do not" not in describe_choice("metric", {"metric": harmful}, ["target_only", "metric"])


def renamed(domain: Domain) -> Domain:
    """Every class under the name of the next one."""
    return replace(domain, data=replace(domain.data, labels_N=(domain.data.labels_N + 1) % len(CLASSES)))


@pytest.mark.parametrize("shots", [2, 4])
def test_auto_transfers_from_honest_sources_and_not_from_mislabelled_ones(shots: int) -> None:
    generator = torch.Generator().manual_seed(shots)
    honest = [noisy(domain, generator) for domain in sources()]
    hostile = [renamed(domain) for domain in honest]
    target, queries = (noisy(Domain(name="target", data=blobs(7, n_rows)), generator).data for n_rows in (shots, 60))
    alone = accuracy(run("target_only", target), queries)
    assert accuracy(run("auto", target, using=honest), queries) > alone + 0.02
    assert accuracy(run("metric", target, using=hostile), queries) < alone - 0.02
    assert accuracy(run("auto", target, using=hostile), queries) == alone
