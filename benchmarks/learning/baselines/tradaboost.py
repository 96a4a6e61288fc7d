"""TrAdaBoost (Dai et al. 2007, "Boosting for transfer learning"): source rows that the target's learners get wrong lose
weight, target rows that they get wrong gain it.

For two classes as published. For more, target rows are boosted by the multi-class rule of Zhu et al. 2009 (SAMME),
which is the same for two.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.learning.baselines.logistic import classifier, fit_predict
from benchmarks.learning.baselines.problem import Problem

ROUNDS = 20


def tradaboost(problem: Problem, query_QF: Tensor) -> Tensor:
    """(Q, C) votes of the second half of the rounds, starting with equal total weight of source and target.

    It stops where a learner makes no error on the target rows: there is nothing left to boost. Where no learner of the
    second half beats guessing there, the last one answers.
    """
    n_support, n_source = len(problem.support_SF), len(problem.source_MF)
    rows_NF = torch.cat([problem.support_SF, problem.source_MF])
    labels_N = torch.cat([problem.support_labels_S, problem.source_labels_M])
    both_NF = torch.cat([rows_NF, query_QF])
    weights_N = torch.cat(
        [torch.full((n_support,), 1 / n_support).double(), torch.full((n_source,), 1 / max(n_source, 1)).double()]
    )
    shrink = 1 / (1 + math.sqrt(2 * math.log(max(n_source, 2)) / ROUNDS))
    learner = classifier(warm_start=True)  # a round changes the weights, not the problem
    votes, answers_QC = [], torch.zeros(0)
    for _ in range(ROUNDS):
        # Mean 1, so that the regularisation means the same in every round.
        weights_N = weights_N / weights_N.mean()
        answers_N = fit_predict(rows_NF, labels_N, both_NF, problem.n_classes, weights_N, learner).argmax(1)
        answers_QC = F.one_hot(answers_N[len(rows_NF) :], problem.n_classes).double()
        wrong_N = (answers_N[: len(rows_NF)] != labels_N).double()
        error = float(weights_N[:n_support] @ wrong_N[:n_support] / weights_N[:n_support].sum())
        say = _say(error, problem.n_classes)
        votes.append(say * answers_QC)
        if error == 0:
            break
        weights_N[:n_support] *= torch.exp(say * wrong_N[:n_support])
        weights_N[n_support:] *= shrink ** wrong_N[n_support:]
    total_QC = torch.stack(votes[len(votes) // 2 :]).sum(0)
    return total_QC if float(total_QC.sum()) > 0 else answers_QC


def _say(error: float, n_classes: int) -> float:
    """A learner's weight in the vote: none where it does not beat guessing, the most where it makes no error."""
    error = min(max(error, 1e-3), 1 - 1e-3)
    return max(math.log((1 - error) / error) + math.log(max(n_classes - 1, 1)), 0.0)
