"""What every baseline on frozen features gets, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A few labelled target rows and many labelled source rows (M of them, maybe none) with labels of one numbering.

    Features are an encoder's unit rows, float32. Labels are int64 in 0..n_classes-1.
    """

    support_SF: Tensor
    support_labels_S: Tensor
    source_MF: Tensor
    source_labels_M: Tensor
    n_classes: int
    seed: int = 0


#: Class probabilities (Q, C), or scores where a method has none, of query features (Q, F).
Baseline = Callable[[Problem, Tensor], Tensor]
