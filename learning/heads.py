"""Base learners: linear heads on features, fitted in closed form (ridge) or by convex optimisation (logistic
regression).

Both minimise  sum_i w_i loss(W f_i + b, y_i) + lambda ||W - W0||^2  with a prior (W0, b0) that is zero unless a
transfer learner generates one. The bias is a last feature of constant 1 with its own, far weaker pull (`BIAS_PENALTY`).
Everything is float64: a support set is small, and leave-one-out divides by small numbers.

Ridge on one-hot targets as a few-shot base learner: Bertinetto et al. 2019, "Meta-learning with differentiable
closed-form solvers". Leave-one-out in closed form: Allen 1974 (PRESS); the form here also covers row weights and a
prior.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.errors import InvalidData

#: The bias is pulled toward its prior this many times less than the weights.
BIAS_PENALTY = 1e-2
#: Regularisation of logistic regression on rows of unit mean squared norm, where nothing better is known.
LOGISTIC_REGULARISATION = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """outputs = features W^T + b. `weight_TF` and `bias_T` are float64."""

    weight_TF: Tensor
    bias_T: Tensor

    def __call__(self, features_QF: Tensor) -> Tensor:
        """(Q, T) float64."""
        return features_QF.double() @ self.weight_TF.T + self.bias_T


def zero_head(n_outputs: int, width: int) -> LinearHead:
    return LinearHead(
        weight_TF=torch.zeros(n_outputs, width, dtype=torch.float64),
        bias_T=torch.zeros(n_outputs, dtype=torch.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeFit:
    """`held_out_ST`: what the head fitted without row i answers for row i, exactly."""

    head: LinearHead
    held_out_ST: Tensor


def one_hot(labels_S: Tensor, n_classes: int) -> Tensor:
    """(S, C) float64 regression targets of a classification task."""
    return F.one_hot(labels_S, n_classes).double()


def with_bias(features: Tensor) -> Tensor:
    """The features with the constant column that carries the bias."""
    ones = torch.ones(*features.shape[:-1], 1, dtype=features.dtype, device=features.device)
    return torch.cat([features, ones], dim=-1)


def _penalty(width: int, regularisation: Tensor) -> Tensor:
    """(..., F + 1): the pull on every weight, then on the bias."""
    scale = torch.ones(width + 1, dtype=regularisation.dtype, device=regularisation.device)
    scale[-1] = BIAS_PENALTY
    return regularisation[..., None] * scale


def ridge_solve(
    features_ESF: Tensor, residuals_EST: Tensor, weights_ES: Tensor, regularisation_E: Tensor
) -> tuple[Tensor, Tensor]:
    """Batched, differentiable weighted ridge. `features_ESF` carries the bias column; weights may be zero (padding).

    Returns the change of the weights (E, F, T) and the exact leave-one-out residuals (E, S, T).

    With R = Y - F W0 and r = R - F dW the fitted residuals, the held-out residual of row i is r_i / (1 - h_ii), where h
    is the weighted hat matrix. The dual (S x S) is solved where there are fewer rows than features, the primal
    otherwise.
    """
    n_rows, width = features_ESF.shape[-2:]
    penalty_EF = _penalty(width - 1, regularisation_E)
    # The square root has no slope at zero, and padding has weight zero.
    root_ES1 = weights_ES.clamp_min(1e-12).sqrt()[..., None]
    scaled_ESF = root_ES1 * features_ESF
    if n_rows <= width:
        kernel_ESS = (scaled_ESF / penalty_EF[..., None, :]) @ scaled_ESF.mT
        eye = torch.eye(n_rows, dtype=features_ESF.dtype, device=features_ESF.device)
        inverse_ESS = torch.cholesky_inverse(torch.linalg.cholesky(eye + kernel_ESS))
        dual_EST = root_ES1 * (inverse_ESS @ (root_ES1 * residuals_EST))
        change_EFT = (features_ESF.mT @ dual_EST) / penalty_EF[..., None]
        slack_ES = inverse_ESS.diagonal(dim1=-2, dim2=-1)
    else:
        gram_EFF = scaled_ESF.mT @ scaled_ESF + torch.diag_embed(penalty_EF)
        factor_EFF = torch.linalg.cholesky(gram_EFF)
        change_EFT = torch.cholesky_solve(scaled_ESF.mT @ (root_ES1 * residuals_EST), factor_EFF)
        half_EFS = torch.linalg.solve_triangular(factor_EFF, scaled_ESF.mT, upper=False)
        slack_ES = 1 - half_EFS.square().sum(-2)
    fitted_EST = residuals_EST - features_ESF @ change_EFT
    return change_EFT, fitted_EST / slack_ES.clamp_min(1e-12)[..., None]


def fit_ridge(
    features_SF: Tensor,
    targets_ST: Tensor,
    *,
    regularisation: float,
    weights_S: Tensor | None = None,
    prior: LinearHead | None = None,
) -> RidgeFit:
    """Weighted ridge toward `prior` (zero if None), with exact leave-one-out answers.

    Raises `InvalidData` where there is no row.
    """
    if features_SF.shape[0] == 0:
        raise InvalidData("cannot fit a head on no rows")
    features_SF, targets_ST = features_SF.double(), targets_ST.double()
    prior = prior or zero_head(targets_ST.shape[1], features_SF.shape[1])
    weights = torch.ones(features_SF.shape[0]) if weights_S is None else weights_S
    change_FT, held_out_residual_ST = ridge_solve(
        with_bias(features_SF),
        targets_ST - prior(features_SF),
        weights.double(),
        torch.tensor(regularisation, dtype=torch.float64),
    )
    head = LinearHead(weight_TF=prior.weight_TF + change_FT[:-1].T, bias_T=prior.bias_T + change_FT[-1])
    return RidgeFit(head=head, held_out_ST=targets_ST - held_out_residual_ST)


def head_from_moments(gram_FF: Tensor, moments_FT: Tensor, *, regularisation: float) -> LinearHead:
    """`fit_ridge` toward zero from the weighted Gram matrix and products with the targets, bias last in both."""
    penalty_F = _penalty(len(gram_FF) - 1, torch.tensor(regularisation, dtype=torch.float64))
    change_FT = torch.cholesky_solve(moments_FT, torch.linalg.cholesky(gram_FF + torch.diag(penalty_F)))
    return LinearHead(weight_TF=change_FT[:-1].T.contiguous(), bias_T=change_FT[-1])


def leave_one_out_heads(
    features_SF: Tensor,
    targets_ST: Tensor,
    fit: RidgeFit,
    *,
    regularisation: float,
    weights_S: Tensor | None = None,
) -> Tensor:
    """(S, T, F + 1): the head of `fit_ridge` without each row, the bias as last column; `fit` is of all rows.

    Leaving row i out moves the weights by -w_i e_i A^-1 f_i, where e_i is its held-out residual and A the penalised
    weighted Gram matrix (Sherman & Morrison 1950). S (F + 1) T numbers: meant for the few outputs of a regression.
    """
    rows_SF = with_bias(features_SF.double())
    n_rows, width = rows_SF.shape
    weights = torch.ones(n_rows, dtype=torch.float64) if weights_S is None else weights_S.double()
    penalty_F = _penalty(width - 1, torch.tensor(regularisation, dtype=torch.float64))
    if n_rows <= width:
        root_S = weights.clamp_min(1e-12).sqrt()
        scaled_SF = root_S[:, None] * rows_SF
        kernel_SS = torch.eye(n_rows, dtype=torch.float64) + (scaled_SF / penalty_F) @ scaled_SF.T
        directions_SF = torch.cholesky_solve(scaled_SF, torch.linalg.cholesky(kernel_SS)) / penalty_F / root_S[:, None]
    else:
        gram_FF = rows_SF.T @ (weights[:, None] * rows_SF) + torch.diag(penalty_F)
        directions_SF = torch.cholesky_solve(rows_SF.T, torch.linalg.cholesky(gram_FF)).T
    moved_ST = weights[:, None] * (targets_ST.double() - fit.held_out_ST)
    head_TF = torch.cat([fit.head.weight_TF, fit.head.bias_T[:, None]], dim=1)
    return head_TF - moved_ST[:, :, None] * directions_SF[:, None, :]


def ridge_path(
    features_SF: Tensor, targets_ST: Tensor, weights_S: Tensor, regularisations: Sequence[float]
) -> Iterator[tuple[float, RidgeFit]]:
    """`fit_ridge` toward zero for many regularisations at the price of one eigendecomposition."""
    rows_SF = with_bias(features_SF.double())
    # Scaling the bias column makes the penalty a multiple of the identity, which every strength then shares.
    rows_SF[:, -1] /= BIAS_PENALTY**0.5
    root_S1 = weights_S.double().sqrt()[:, None]
    scaled_SF, weighted_ST = root_S1 * rows_SF, root_S1 * targets_ST.double()
    dual = scaled_SF.shape[0] <= scaled_SF.shape[1]
    values_K, vectors_K = torch.linalg.eigh(scaled_SF @ scaled_SF.T if dual else scaled_SF.T @ scaled_SF)
    values_K = values_K.clamp_min(0)
    for regularisation in regularisations:
        shrunk_K = 1 / (values_K + regularisation)
        if dual:
            dual_ST = (vectors_K * shrunk_K) @ (vectors_K.T @ weighted_ST)
            change_FT = scaled_SF.T @ dual_ST
            slack_S = regularisation * (vectors_K.square() @ shrunk_K)
        else:
            change_FT = (vectors_K * shrunk_K) @ (vectors_K.T @ (scaled_SF.T @ weighted_ST))
            slack_S = 1 - (scaled_SF @ vectors_K).square() @ shrunk_K
        residual_ST = (targets_ST - rows_SF @ change_FT) / slack_S.clamp_min(1e-12)[:, None]
        head = LinearHead(weight_TF=change_FT[:-1].T.contiguous(), bias_T=change_FT[-1] / BIAS_PENALTY**0.5)
        yield regularisation, RidgeFit(head=head, held_out_ST=targets_ST - residual_ST)


def fit_logistic(
    features_SF: Tensor,
    labels_S: Tensor,
    n_classes: int,
    *,
    regularisation: float,
    weights_S: Tensor | None = None,
    prior: LinearHead | None = None,
    max_iterations: int = 200,
) -> LinearHead:
    """Weighted multinomial logistic regression toward `prior`, to convergence (L-BFGS on the convex objective)."""
    rows_SF = with_bias(features_SF.double())
    prior = prior or zero_head(n_classes, features_SF.shape[1])
    prior_logits_SC = prior(features_SF)
    weights_S1 = (torch.ones(len(labels_S)) if weights_S is None else weights_S).double()[:, None]
    targets_SC = one_hot(labels_S, n_classes)
    penalty_F = _penalty(features_SF.shape[1], torch.tensor(regularisation, dtype=torch.float64))
    change_CF = torch.zeros(n_classes, rows_SF.shape[1], dtype=torch.float64)
    change_CF.grad = torch.zeros_like(change_CF)
    optimiser = torch.optim.LBFGS(
        [change_CF], max_iter=max_iterations, line_search_fn="strong_wolfe", tolerance_grad=1e-6, tolerance_change=1e-9
    )

    def objective() -> Tensor:
        # The gradient by hand: at these sizes autograd's bookkeeping costs more than the arithmetic.
        log_probs_SC = (prior_logits_SC + rows_SF @ change_CF.T).log_softmax(1)
        error_SC = weights_S1 * (log_probs_SC.exp() - targets_SC)
        change_CF.grad = error_SC.T @ rows_SF + 2 * penalty_F * change_CF
        return (penalty_F * change_CF.square()).sum() - (weights_S1 * targets_SC * log_probs_SC).sum()

    with torch.no_grad():
        optimiser.step(objective)
    return LinearHead(weight_TF=prior.weight_TF + change_CF[:, :-1], bias_T=prior.bias_T + change_CF[:, -1])
