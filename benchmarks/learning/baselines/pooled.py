"""The simplest transfer: source and target rows as if they were one data set."""

import torch
from torch import Tensor

from benchmarks.learning.baselines.logistic import fit_predict
from benchmarks.learning.baselines.problem import Problem


def pooled(problem: Problem, query_QF: Tensor) -> Tensor:
    """(Q, C) probabilities of one logistic regression on all rows, each of weight 1."""
    return fit_predict(
        torch.cat([problem.support_SF, problem.source_MF]),
        torch.cat([problem.support_labels_S, problem.source_labels_M]),
        query_QF,
        problem.n_classes,
    )
