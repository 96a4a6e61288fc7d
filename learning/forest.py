"""Extremely randomised trees (Geurts, Ernst & Wehenkel 2006) over features, all trees of a forest grown at once.

Few rows with thresholds and interactions are what a linear head misses and averaged random trees catch. Differences to
the paper: a node draws its features until enough of them vary within it, and a forest of many rows gives each tree a
random part of them.

Letters in shape suffixes besides those of `learning.types`: M nodes of all trees, B trees, A nodes that split, P pairs
of (tree, row), J features a node tries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

#: A forest has at most so many trees, and of many rows fewer: this bounds its size and the time to grow it.
MAX_TREES, MAX_PAIRS = 100, 6_400
#: Rows that one tree sees.
MAX_ROWS_PER_TREE = 128
MAX_DEPTH = 12
#: Most features that a node tries.
MAX_TRIED = 64
#: Features drawn per feature that a node tries: those that do not vary within the node are passed over.
SPARE = 3
#: A node of fewer rows is a leaf. Smoother leaves than single rows give: their mean is a probability.
MIN_ROWS = 5
_FLAT = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """A fixed forest: the first `n_trees` nodes are the roots, `left_M` is 0 at a leaf, the right child follows it.

    `feature_M` int32, `threshold_M` float32 (larger values go right), `left_M` int32, `value_MT` float16: the mean
    target of the rows that came by. Means of one-hot or standardised targets need no more precision than that.
    """

    n_trees: int
    feature_M: Tensor
    threshold_M: Tensor
    left_M: Tensor
    value_MT: Tensor

    @cached_property
    def depth(self) -> int:
        """Steps from a root to the farthest leaf."""
        depth, reached_M = 0, torch.arange(self.n_trees)
        while len(inner_M := reached_M[self.left_M[reached_M] > 0]):
            left_M = self.left_M[inner_M].long().unique()
            depth, reached_M = depth + 1, torch.cat([left_M, left_M + 1])
        return depth

    def answers(self, features_QF: Tensor) -> Tensor:
        """(Q, T) float32: the mean over the trees."""
        rows_QF = features_QF.float()
        feature_M, left_M = self.feature_M.long(), self.left_M.long()
        node_QB = torch.arange(self.n_trees).expand(rows_QF.shape[0], -1)
        for _ in range(self.depth):
            left_QB = left_M[node_QB]
            right_QB = rows_QF.gather(1, feature_M[node_QB]) > self.threshold_M[node_QB]
            node_QB = torch.where(left_QB > 0, left_QB + right_QB, node_QB)
        return self.value_MT.float()[node_QB].mean(1)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "feature": self.feature_M, "threshold": self.threshold_M, "left": self.left_M, "value": self.value_MT,
            "n_trees": torch.tensor(self.n_trees),
        }  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Raises `ValueError` where following the nodes would lead out of the forest or in a circle."""
        feature_M, left_M, n_trees = tensors["feature"], tensors["left"], int(tensors["n_trees"])
        place_M = torch.arange(len(left_M))
        inner_M = left_M > 0
        sizes = {len(feature_M), len(left_M), len(tensors["threshold"]), len(tensors["value"])}
        if len(sizes) > 1 or not 0 < n_trees <= len(left_M) or bool((feature_M < 0).any()):
            raise ValueError("the nodes of a forest do not fit together")
        if bool((left_M[inner_M] <= place_M[inner_M]).any()) or bool((left_M[inner_M] + 1 >= len(left_M)).any()):
            raise ValueError("a node of a forest has no children after it")
        return cls(
            n_trees=n_trees, feature_M=feature_M, threshold_M=tensors["threshold"], left_M=left_M,
            value_MT=tensors["value"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Level:
    """One depth of all trees: the pairs that reached it, each pair's node, and the nodes' sums."""

    row_P: Tensor
    node_P: Tensor
    count_M: Tensor
    sum_MT: Tensor
    impurity_M: Tensor

    def divisible(self) -> Tensor:
        """(A,) the nodes worth a split."""
        return ((self.impurity_M > _FLAT) & (self.count_M >= MIN_ROWS)).nonzero()[:, 0]


def grow_forest(
    features_SF: Tensor, targets_ST: Tensor, generator: torch.Generator, *, weights_S: Tensor | None = None
) -> Forest:
    """A forest on one-hot (classification) or standardised targets; every node tries half of the features.

    With `weights_S` every tree sees rows drawn in proportion to them, with replacement.

    A split maximises the decrease of the targets' squared deviation, which for one-hot targets is the Gini impurity.
    Nodes are split until their targets are equal or their rows fewer than `MIN_ROWS`, at most `MAX_DEPTH` deep.
    """
    rows_SF, targets_ST = features_SF.float(), targets_ST.double()
    n_tried = min((rows_SF.shape[1] + 1) // 2, MAX_TRIED)
    n_trees = min(MAX_TREES, MAX_PAIRS // min(len(rows_SF), MAX_ROWS_PER_TREE))
    row_P, node_P = _deal_rows(len(rows_SF), n_trees, generator, weights_S)
    features, thresholds, lefts, values = [], [], [], []
    first, n_nodes = 0, n_trees
    for depth in range(MAX_DEPTH + 1):
        level = _level(row_P, node_P, n_nodes, targets_ST)
        values.append(level.sum_MT / level.count_M[:, None])
        split_A = level.divisible() if depth < MAX_DEPTH else torch.zeros(0).long()
        feature_M, threshold_M = torch.zeros(n_nodes, dtype=torch.int64), torch.zeros(n_nodes)
        left_M, place_M = torch.zeros(n_nodes, dtype=torch.int64), torch.full((n_nodes,), -1)
        if len(split_A):
            found_A, feature_M[split_A], threshold_M[split_A] = _best_splits(
                level, split_A, rows_SF, targets_ST, n_tried, generator
            )
            split_A = split_A[found_A]
            place_M[split_A] = torch.arange(len(split_A))
            left_M[split_A] = first + n_nodes + 2 * place_M[split_A]
        features.append(feature_M)
        thresholds.append(threshold_M)
        lefts.append(left_M)
        going_P = place_M[level.node_P] >= 0
        row_P, node_P = level.row_P[going_P], level.node_P[going_P]
        if not len(row_P):
            break
        right_P = rows_SF[row_P, feature_M[node_P]] > threshold_M[node_P]
        node_P = 2 * place_M[node_P] + right_P
        first, n_nodes = first + n_nodes, 2 * len(split_A)
    return Forest(
        n_trees=n_trees,
        feature_M=torch.cat(features).int(),
        threshold_M=torch.cat(thresholds),
        left_M=torch.cat(lefts).int(),
        value_MT=torch.cat(values).half(),
    )


def _deal_rows(
    n_rows: int, n_trees: int, generator: torch.Generator, weights_S: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The pairs of the roots: every tree sees all rows, or a random part of `MAX_ROWS_PER_TREE`."""
    n_seen = min(n_rows, MAX_ROWS_PER_TREE)
    if weights_S is not None:
        row_BS = torch.multinomial(weights_S.expand(n_trees, -1), n_seen, replacement=True, generator=generator)
    elif n_seen == n_rows:
        row_BS = torch.arange(n_rows).expand(n_trees, -1)
    else:
        row_BS = torch.stack([torch.randperm(n_rows, generator=generator)[:n_seen] for _ in range(n_trees)])
    return row_BS.flatten(), torch.arange(n_trees).repeat_interleave(n_seen)


def _level(row_P: Tensor, node_P: Tensor, n_nodes: int, targets_ST: Tensor) -> _Level:
    targets_PT = targets_ST[row_P]
    count_M = torch.bincount(node_P, minlength=n_nodes).double()
    sum_MT = torch.zeros(n_nodes, targets_ST.shape[1], dtype=torch.float64).index_add_(0, node_P, targets_PT)
    square_M = torch.zeros(n_nodes, dtype=torch.float64).index_add_(0, node_P, targets_PT.square().sum(1))
    impurity_M = square_M - sum_MT.square().sum(1) / count_M
    return _Level(row_P=row_P, node_P=node_P, count_M=count_M, sum_MT=sum_MT, impurity_M=impurity_M)


def _best_splits(
    level: _Level, split_A: Tensor, rows_SF: Tensor, targets_ST: Tensor, n_tried: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """For each node of `split_A`: whether some feature varies in it, and the best of its random splits."""
    place_M = torch.full((len(level.count_M),), -1)
    place_M[split_A] = torch.arange(len(split_A))
    place_P = place_M[level.node_P]
    row_P, place_P = level.row_P[place_P >= 0], place_P[place_P >= 0]
    feature_AJ, low_AJ, high_AJ = _varying(rows_SF, row_P, place_P, len(split_A), n_tried, generator)
    share_AJ = torch.rand(feature_AJ.shape, generator=generator)
    # The upper end is not a split: it would leave the right side empty.
    threshold_AJ = torch.minimum(low_AJ + share_AJ * (high_AJ - low_AJ), torch.nextafter(high_AJ, low_AJ))
    right_PJ = (rows_SF[row_P[:, None], feature_AJ[place_P]] > threshold_AJ[place_P]).double()
    n_split, n_features = feature_AJ.shape
    right_count_AJ = torch.zeros(n_split, n_features, dtype=torch.float64).index_add_(0, place_P, right_PJ)
    right_AJT = torch.zeros(n_split, n_features, targets_ST.shape[1], dtype=torch.float64)
    right_AJT = right_AJT.index_add_(0, place_P, right_PJ[:, :, None] * targets_ST[row_P][:, None])
    left_count_AJ = level.count_M[split_A][:, None] - right_count_AJ
    left_AJT = level.sum_MT[split_A][:, None] - right_AJT
    gain_AJ = right_AJT.square().sum(2) / right_count_AJ.clamp_min(1)
    gain_AJ += left_AJT.square().sum(2) / left_count_AJ.clamp_min(1)
    gain_AJ[(right_count_AJ == 0) | (left_count_AJ == 0)] = -math.inf
    best_A1 = gain_AJ.argmax(1, keepdim=True)
    found_A = gain_AJ.gather(1, best_A1)[:, 0] > -math.inf
    return found_A, feature_AJ.gather(1, best_A1)[:, 0], threshold_AJ.gather(1, best_A1)[:, 0]


def _varying(
    rows_SF: Tensor, row_P: Tensor, place_P: Tensor, n_split: int, n_tried: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(A, J) random features of each node, those that vary within it first, and their lowest and highest values."""
    width = rows_SF.shape[1]
    n_drawn = min(width, max(SPARE * n_tried, 8))
    drawn_AJ = torch.rand(n_split, width, generator=generator).topk(n_drawn, dim=1).indices
    values_PJ = rows_SF[row_P[:, None], drawn_AJ[place_P]]
    place_PJ = place_P[:, None].expand(-1, n_drawn)
    low_AJ = torch.full((n_split, n_drawn), math.inf).scatter_reduce_(0, place_PJ, values_PJ, "amin")
    high_AJ = torch.full((n_split, n_drawn), -math.inf).scatter_reduce_(0, place_PJ, values_PJ, "amax")
    flat_AJ = high_AJ - low_AJ <= _FLAT
    order_AJ = flat_AJ.byte().argsort(dim=1, stable=True)[:, : min(n_tried, n_drawn)]
    return drawn_AJ.gather(1, order_AJ), low_AJ.gather(1, order_AJ), high_AJ.gather(1, order_AJ)
