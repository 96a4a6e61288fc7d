import pytest
import torch

from learning.calibration import (
    expected_calibration_error,
    fit_familiarity,
    fit_temperature,
    held_out_temperature,
    prediction_sets,
    set_threshold,
    unknown_temperature,
)  # fmt: skip


def test_temperature_recovers_the_true_one_when_there_are_many_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 3, generator=generator)
    labels = torch.multinomial((logits / 2.5).softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.15)


def test_temperature_is_the_prior_when_there_are_no_rows() -> None:
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), prior=0.7) == 0.7


def test_temperature_stays_near_the_prior_when_two_rows_happen_to_be_right() -> None:
    assert fit_temperature(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])) > 0.3


def test_calibration_error_equals_the_hand_computed_gap() -> None:
    probs = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]])
    labels = torch.tensor([0, 1, 0, 0])
    # Bin .9 to 1: confidence .95, accuracy .5. Bin .6 to .7: confidence .65, accuracy 1.
    assert expected_calibration_error(probs, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.35, abs=1e-6)


def drawn(
    seed: int, n_rows: int, n_classes: int, *, spread: float, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs whose true temperature is known, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    outputs = spread * torch.randn(n_rows, n_classes, generator=generator).double()
    return outputs, torch.multinomial((outputs / temperature).softmax(1), 1, generator=generator)[:, 0]


def test_unknown_temperature_follows_the_scale_of_the_outputs() -> None:
    outputs, _ = drawn(0, 50, 20, spread=1.0, temperature=1.0)
    assert unknown_temperature(0.1 * outputs) == pytest.approx(0.1 * unknown_temperature(outputs))
    assert unknown_temperature(100 * outputs) == 1.0
    assert unknown_temperature(torch.zeros(3, 2)) == 1.0
    assert unknown_temperature(torch.zeros(0, 2)) == 1.0


def test_unknown_temperature_is_not_moved_by_a_few_absent_classes() -> None:
    outputs, _ = drawn(0, 50, 20, spread=1.0, temperature=1.0)
    absent = outputs.clone()
    absent[:, :2] = -30.0
    assert unknown_temperature(absent) == pytest.approx(unknown_temperature(outputs), rel=0.3)


def test_one_shot_answers_of_many_classes_are_not_left_unsure() -> None:
    # The outputs of one-shot heads are small: at a temperature of 1 they would all be near 1 / 75.
    outputs = 0.5 * torch.randn(75, 75, generator=torch.Generator().manual_seed(0)).double()
    outputs += 3.0 * torch.eye(75)
    temperature = held_out_temperature(outputs, torch.arange(75), torch.zeros(75, dtype=torch.bool))
    assert 0.5 < float((outputs / temperature).softmax(1).amax(1).mean()) < 0.999


def test_temperature_of_a_strong_prior_stays_where_the_prior_is() -> None:
    outputs, labels = drawn(0, 16, 3, spread=2.0, temperature=1.0)
    weak, strong = (fit_temperature(outputs, labels, prior=5.0, strength=strength) for strength in (1.0, 1000.0))
    assert strong == pytest.approx(5.0, rel=0.1)
    assert weak < 4.0


@pytest.mark.parametrize(("n_rows", "n_classes"), [(16, 2), (40, 5)])
def test_few_held_out_rows_give_calibrated_answers_and_sets(n_rows: int, n_classes: int) -> None:
    inside, errors = [], []
    for seed in range(300):
        outputs, labels = drawn(seed, n_rows + 200, n_classes, spread=1.0, temperature=0.7)
        temperature = held_out_temperature(outputs[:n_rows], labels[:n_rows])
        probs = (outputs / temperature).softmax(1)
        sets = prediction_sets(probs[n_rows:], set_threshold(probs[:n_rows], labels[:n_rows], 0.9))
        inside.append(sets.gather(1, labels[n_rows:, None]).double().mean())
        errors.append(probs[n_rows:].amax(1).mean() - (probs[n_rows:].argmax(1) == labels[n_rows:]).double().mean())
    assert 0.88 <= float(torch.stack(inside).mean()) <= 0.92
    assert abs(float(torch.stack(errors).mean())) <= 0.05


def test_prediction_sets_cover_as_promised_on_fresh_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = (1.5 * torch.randn(4000, 5, generator=generator)).softmax(1)
    labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
    threshold = set_threshold(probs[:2000], labels[:2000], 0.9)
    sets = prediction_sets(probs[2000:], threshold)
    assert float(sets.gather(1, labels[2000:, None]).double().mean()) == pytest.approx(0.9, abs=0.03)
    assert float(sets.double().sum(1).mean()) < 5


def test_prediction_sets_hold_the_row_that_set_the_threshold() -> None:
    for seed in range(20):
        logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
        probs = logits.softmax(1)
        assert (probs[:, 0] >= set_threshold(probs, torch.zeros(9, dtype=torch.int64), 0.9)).all()


def test_familiarity_is_not_narrowed_by_copies() -> None:
    known = 3 * torch.randn(15, 64, generator=torch.Generator().manual_seed(0))
    once, thrice = fit_familiarity(known), fit_familiarity(known.repeat(3, 1))
    assert thrice.typical == pytest.approx(once.typical, rel=1e-4)
    assert thrice.spread == pytest.approx(once.spread, rel=1e-4)


def test_prediction_set_is_never_empty() -> None:
    assert prediction_sets(torch.tensor([[0.4, 0.3, 0.3]]), 0.9).tolist() == [[True, False, False]]


def test_familiarity_tells_a_far_query_from_a_near_one() -> None:
    known = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    near, far = fit_familiarity(known).ood(torch.stack([known[0], known[0] + 50])).tolist()
    assert near < 0.1
    assert far > 0.95


def clusters(seed: int, n_per_cluster: int, *, move: float = 0.0) -> torch.Tensor:
    """Rows around ten centres in 100 dimensions; `move` puts the centres elsewhere."""
    centres = torch.randn(10, 100, generator=torch.Generator().manual_seed(1 + (move > 0)))
    noise = torch.randn(10 * n_per_cluster, 100, generator=torch.Generator().manual_seed(seed))
    return (1 + move) * centres.repeat(n_per_cluster, 1) + 0.5 * noise


@pytest.mark.parametrize("n_per_cluster", [2, 5, 20])
def test_familiarity_flags_foreign_rows_and_few_of_its_own_kind(n_per_cluster: int) -> None:
    familiarity = fit_familiarity(clusters(0, n_per_cluster))
    own, foreign = familiarity.ood(clusters(5, 100)), familiarity.ood(clusters(6, 100, move=0.2))
    assert float((own > 0.95).double().mean()) <= 0.12
    assert float((foreign > 0.95).double().mean()) >= 0.9


@pytest.mark.parametrize("n_rows", [1, 2])
def test_familiarity_is_finite_when_almost_nothing_is_known(n_rows: int) -> None:
    known = torch.ones(n_rows, 3)
    assert torch.isfinite(fit_familiarity(known).ood(torch.zeros(2, 3))).all()
