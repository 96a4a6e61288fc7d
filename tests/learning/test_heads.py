import pytest
import torch

from learning.heads import LinearHead, fit_logistic, fit_ridge, one_hot, ridge_path


def problem(n_rows: int, width: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, LinearHead]:
    generator = torch.Generator().manual_seed(seed)
    prior = LinearHead(
        weight_TF=torch.randn(3, width, generator=generator).double(),
        bias_T=torch.randn(3, generator=generator).double(),
    )
    weights = torch.rand(n_rows, generator=generator).double()
    weights[1] = 0.0
    rows, targets = torch.randn(n_rows, width, generator=generator), torch.randn(n_rows, 3, generator=generator)
    return rows.double(), targets.double(), weights, prior


def test_ridge_equals_the_hand_computed_value_on_one_row() -> None:
    # One row f = 1, y = 1: minimise (w + b - 1)^2 + 2 w^2 + 0.02 b^2, so b = 100 w and w = 1 / (1 + 100 + 2).
    head = fit_ridge(torch.ones(1, 1), torch.ones(1, 1), regularisation=2.0).head
    assert head.weight_TF.item() == pytest.approx(1 / 103)
    assert head.bias_T.item() == pytest.approx(100 / 103)


@pytest.mark.parametrize(("n_rows", "width"), [(6, 20), (30, 4)], ids=["dual", "primal"])
def test_ridge_leaves_one_out_exactly_as_refitting_does(n_rows: int, width: int) -> None:
    rows, targets, weights, prior = problem(n_rows, width)
    fit = fit_ridge(rows, targets, regularisation=0.3, weights_S=weights, prior=prior)
    for row in range(n_rows):
        kept = [other for other in range(n_rows) if other != row]
        refit = fit_ridge(rows[kept], targets[kept], regularisation=0.3, weights_S=weights[kept], prior=prior)
        assert torch.allclose(refit.head(rows[[row]])[0], fit.held_out_ST[row], atol=1e-9)


@pytest.mark.parametrize(("n_rows", "width"), [(6, 20), (30, 4)], ids=["dual", "primal"])
def test_ridge_path_equals_single_fits(n_rows: int, width: int) -> None:
    rows, targets, weights, _ = problem(n_rows, width)
    for regularisation, fit in ridge_path(rows, targets, weights, [0.1, 3.0]):
        single = fit_ridge(rows, targets, regularisation=regularisation, weights_S=weights)
        assert torch.allclose(fit.head.weight_TF, single.head.weight_TF, atol=1e-10)
        assert torch.allclose(fit.head.bias_T, single.head.bias_T, atol=1e-10)
        assert torch.allclose(fit.held_out_ST, single.held_out_ST, atol=1e-9)


def test_ridge_weight_counts_like_repetition() -> None:
    rows, targets, _, prior = problem(5, 3)
    weights = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0])
    repeated = torch.tensor([0, 1, 2, 2, 2, 3, 4])
    weighted = fit_ridge(rows, targets, regularisation=1.0, weights_S=weights, prior=prior).head
    copied = fit_ridge(rows[repeated], targets[repeated], regularisation=1.0, prior=prior).head
    assert torch.allclose(weighted.weight_TF, copied.weight_TF, atol=1e-10)


def test_ridge_returns_the_prior_when_the_pull_is_infinite() -> None:
    rows, targets, _, prior = problem(5, 3)
    head = fit_ridge(rows, targets, regularisation=1e12, prior=prior).head
    assert torch.allclose(head.weight_TF, prior.weight_TF, atol=1e-8)


def test_logistic_regression_has_no_gradient_left_at_its_optimum() -> None:
    rows, _, weights, prior = problem(30, 4)
    labels = torch.arange(30) % 3
    head = fit_logistic(rows, labels, 3, regularisation=0.2, weights_S=weights, prior=prior)
    weight_TF = head.weight_TF.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(rows @ weight_TF.T + head.bias_T, labels, reduction="none")
    ((weights * loss).sum() + 0.2 * (weight_TF - prior.weight_TF).square().sum()).backward()
    assert weight_TF.grad is not None
    assert float(weight_TF.grad.abs().max()) < 1e-3


def test_logistic_regression_equals_the_symmetric_solution_when_classes_mirror_each_other() -> None:
    rows = torch.tensor([[1.0], [-1.0]])
    head = fit_logistic(rows, torch.tensor([0, 1]), 2, regularisation=0.1)
    assert head.bias_T.abs().max() < 1e-6
    # With w = W[0] = -W[1] the objective is 2 log(1 + exp(-2 w)) + 0.2 w^2.
    w = float(head.weight_TF[0, 0])
    assert 4 * torch.sigmoid(torch.tensor(-2 * w)).item() == pytest.approx(0.4 * w, rel=1e-4)


def test_one_hot_puts_a_one_at_each_label() -> None:
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
