"""Kernel mean matching (Huang et al. 2006, "Correcting sample selection bias by unlabeled data").

Source rows get the weights b that bring their weighted mean closest to the target's in a reproducing kernel space:
minimise  b'Kb / 2 - k'b  over  0 <= b <= B,  |sum b - M| <= M eps,  with K the kernel among the M source rows and
k_i = M / N sum_j kernel(source i, target j). Labels play no part in the weights. Here it is solved by accelerated
projected gradient, in a few lines and without another package.
"""

import math

import torch
from torch import Tensor

from benchmarks.learning.baselines.logistic import fit_predict
from benchmarks.learning.baselines.problem import Problem

BOUND = 1000.0
ITERATIONS = 300
#: A kernel matrix of more rows than this costs more than all else; sources are thinned to it.
MAX_ROWS = 1000


def kmm(problem: Problem, query_QF: Tensor) -> Tensor:
    """(Q, C) probabilities of logistic regression on target rows (weight 1) and source rows (their KMM weights).

    The target's distribution is estimated from the queries and the support together: their labels are not used.
    """
    chosen_M = torch.randperm(len(problem.source_MF), generator=torch.Generator().manual_seed(problem.seed))[:MAX_ROWS]
    source_MF = problem.source_MF[chosen_M]
    weights_M = matching_weights(source_MF, torch.cat([problem.support_SF, query_QF]))
    return fit_predict(
        torch.cat([problem.support_SF, source_MF]),
        torch.cat([problem.support_labels_S, problem.source_labels_M[chosen_M]]),
        query_QF,
        problem.n_classes,
        torch.cat([torch.ones(len(problem.support_SF), dtype=torch.float64), weights_M]),
    )


def matching_weights(source_MF: Tensor, target_NF: Tensor, *, gamma: float | None = None) -> Tensor:
    """(M,) weights of mean near 1. `gamma` of the kernel exp(-gamma d^2); None: 1 over the median squared distance."""
    source_MF, target_NF = source_MF.double(), target_NF.double()
    if gamma is None:
        gamma = 1 / float(torch.cdist(source_MF, target_NF).square().median())
    n_rows = len(source_MF)
    kernel_MM = torch.exp(-gamma * torch.cdist(source_MF, source_MF).square())
    linear_M = n_rows * torch.exp(-gamma * torch.cdist(source_MF, target_NF).square()).mean(1)
    slack = math.sqrt(n_rows) * (math.sqrt(n_rows) - 1)
    step = 1 / float(torch.linalg.matrix_norm(kernel_MM, ord=float("inf")))
    current_M = ahead_M = torch.ones(n_rows, dtype=torch.float64)
    momentum = 1.0
    for _ in range(ITERATIONS):
        moved_M = _project(
            ahead_M - step * (kernel_MM @ ahead_M - linear_M), n_rows * (1 - slack), n_rows * (1 + slack)
        )
        faster = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
        ahead_M = moved_M + (momentum - 1) / faster * (moved_M - current_M)
        current_M, momentum = moved_M, faster
    return current_M


def _project(weights_M: Tensor, least: float, most: float) -> Tensor:
    """The nearest weights in [0, BOUND] whose sum lies in [least, most]: a common shift, found by bisection."""
    clipped_M = weights_M.clamp(0, BOUND)
    total = float(clipped_M.sum())
    if least <= total <= most:
        return clipped_M
    wanted = min(max(total, least), most)
    low, high = -float(weights_M.max()), BOUND - float(weights_M.min())
    for _ in range(60):
        shift = (low + high) / 2
        low, high = (shift, high) if float((weights_M + shift).clamp(0, BOUND).sum()) < wanted else (low, shift)
    return (weights_M + high).clamp(0, BOUND)
