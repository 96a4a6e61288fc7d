"""Not transferring: multinomial logistic regression on the target's own labelled rows (scikit-learn)."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.learning.baselines.problem import Problem

#: On unit rows of frozen features. Far weaker regularisation than scikit-learn's 1, which is meant for standardised
#: columns; between 3 and 100 the figures differ by less than their intervals.
INVERSE_REGULARISATION = 10.0


def target_only(problem: Problem, query_QF: Tensor) -> Tensor:
    """(Q, C) probabilities."""
    return fit_predict(problem.support_SF, problem.support_labels_S, query_QF, problem.n_classes)


def classifier(*, warm_start: bool = False) -> LogisticRegression:
    """Not yet fitted. With `warm_start` every fit begins where the one before ended: the same optimum, sooner."""
    return LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000, warm_start=warm_start)


def fit_predict(
    rows_NF: Tensor,
    labels_N: Tensor,
    query_QF: Tensor,
    n_classes: int,
    weights_N: Tensor | None = None,
    model: LogisticRegression | None = None,
) -> Tensor:
    """(Q, C) probabilities of a weighted logistic regression; 0 for classes without a row."""
    model = model or classifier()
    model.fit(rows_NF.double().numpy(), labels_N.numpy(), None if weights_N is None else weights_N.double().numpy())
    probs_QC = np.zeros((len(query_QF), n_classes))
    probs_QC[:, model.classes_] = model.predict_proba(query_QF.double().numpy())
    return torch.from_numpy(probs_QC)
