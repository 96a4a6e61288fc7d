"""Distances between rows, one way to compute them and one to write them into a graph."""

from typing import Literal

import torch
from torch import Tensor


def distances(first_QF: Tensor, second_NF: Tensor, *, order: Literal[1, 2]) -> Tensor:
    """(Q, N) Manhattan (1) or Euclidean (2) distances, float32; copies lie exactly 0 apart."""
    first_QF, second_NF = first_QF.float(), second_NF.float()
    # As the exporter writes it, cdist forgets signs and takes another root.
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        difference_QNF = first_QF[:, None] - second_NF
        return difference_QNF.abs().sum(-1) if order == 1 else difference_QNF.square().sum(-1).sqrt()
    # Through a matrix product, as is the default, copies would lie apart by rounding.
    return torch.cdist(first_QF, second_NF, p=order, compute_mode="donot_use_mm_for_euclid_dist")
