"""Dealing rows into folds."""

import torch
from torch import Tensor


def deal_folds(labels_S: Tensor, n_folds: int, generator: torch.Generator) -> Tensor:
    """(S,) fold of each row: each label's rows are shuffled and dealt in turn, the next label going on there."""
    fold_S = torch.empty(len(labels_S), dtype=torch.int64)
    dealt = 0
    for label in _by_first_row(labels_S):
        rows = (labels_S == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        fold_S[rows] = (dealt + torch.arange(len(rows))) % n_folds
        dealt += len(rows)
    return fold_S


def _by_first_row(labels_S: Tensor) -> list[int]:
    """Distinct labels in order of appearance: folds must not depend on what the classes are called."""
    return list(dict.fromkeys(labels_S.tolist()))
