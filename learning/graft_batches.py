"""Batches of raw source rows for stage A: a few classes of one domain, or of two domains that share labels.

Letters besides those of `learning.types`: B rows of a batch, V class names over all domains (the "vectors").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

#: Rows of a class that may share a batch, as a share of the class, where rows differ in size (texts in length).
WINDOW = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class RawDomain:
    """A source before encoding: `inputs` as `Encoder.encode` takes them, `labels_N` int64 into `classes`."""

    name: str
    inputs: Sequence[Any]
    labels_N: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class RawRows:
    """Rows of one domain, prepared for the encoder. `vector_N` numbers their class names over all domains."""

    prepared: Sequence[Any]
    size_N: Tensor
    vector_N: Tensor

    def __len__(self) -> int:
        return len(self.prepared)

    def select(self, index_N: Tensor) -> "RawRows":
        rows = index_N.tolist()
        return RawRows(
            prepared=[self.prepared[i] for i in rows], size_N=self.size_N[index_N], vector_N=self.vector_N[index_N]
        )

    @cached_property
    def by_vector(self) -> dict[int, Tensor]:
        """Rows of each class with at least two, ordered by size."""
        order_N = self.size_N.argsort(stable=True)
        groups = {int(v): order_N[self.vector_N[order_N] == v] for v in self.vector_N.unique()}
        return {v: rows for v, rows in groups.items() if len(rows) > 1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """`vector_B` names the class of each row, `support_B` (bool) the rows that make the prototypes.

    `open_BV` (bool) are the classes that the row's domain has: only between these is it classified.
    """

    prepared: list[Any]
    vector_B: Tensor
    support_B: Tensor
    open_BV: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchSampler:
    """Draws from `domains` (D of them), all equally often."""

    domains: Sequence[RawRows]
    n_vectors: int
    batch_rows: int

    @cached_property
    def _open_classes(self) -> Tensor:
        open_DV = torch.zeros(len(self.domains), self.n_vectors, dtype=torch.bool)
        for d, rows in enumerate(self.domains):
            open_DV[d, list(rows.by_vector)] = True
        return open_DV

    @cached_property
    def _playable(self) -> list[int]:
        return [d for d, rows in enumerate(self.domains) if len(rows.by_vector) > 1]

    @property
    def is_possible(self) -> bool:
        return bool(self._playable)

    def draw(self, generator: torch.Generator) -> Batch:
        """Half support, half query; of two domains where another one shares at least two classes with the first."""
        first = self._playable[_integer(len(self._playable), generator)]
        shared_D = (self._open_classes & self._open_classes[first]).sum(1) > 1
        shared_D[first] = False
        partners = shared_D.nonzero()[:, 0].tolist()
        second = partners[_integer(len(partners), generator)] if partners else first
        common = (self._open_classes[first] & self._open_classes[second]).nonzero()[:, 0]
        ways = min(len(common), self.batch_rows // 2)
        vectors = common[torch.randperm(len(common), generator=generator)[:ways]].tolist()
        shots = max(1, self.batch_rows // (2 * ways))
        place = float(torch.rand((), generator=generator))
        if first == second:
            parts = [self._rows(first, v, 2 * shots, place, generator) for v in vectors]
            support, query = [p[: len(p) // 2] for p in parts], [p[len(p) // 2 :] for p in parts]
        else:
            support = [self._rows(first, v, shots, place, generator) for v in vectors]
            query = [self._rows(second, v, shots, place, generator) for v in vectors]
        return self._batch([(first, torch.cat(support)), (second, torch.cat(query))])

    def _rows(self, domain: int, vector: int, count: int, place: float, generator: torch.Generator) -> Tensor:
        """At most `count` rows of a class, around the same `place` in its order of size: little padding is wasted."""
        rows = self.domains[domain].by_vector[vector]
        sizes = self.domains[domain].size_N[rows]
        if sizes[0] != sizes[-1]:
            window = max(round(WINDOW * len(rows)), min(2 * count, len(rows)))
            start = round(place * (len(rows) - window))
            rows = rows[start : start + window]
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def _batch(self, halves: list[tuple[int, Tensor]]) -> Batch:
        return Batch(
            prepared=[self.domains[d].prepared[i] for d, rows in halves for i in rows.tolist()],
            vector_B=torch.cat([self.domains[d].vector_N[rows] for d, rows in halves]),
            support_B=torch.cat([torch.full((len(rows),), half == 0) for half, (_, rows) in enumerate(halves)]),
            open_BV=torch.cat([self._open_classes[d].expand(len(rows), -1) for d, rows in halves]),
        )


def pooled(domains: Sequence[RawRows]) -> Sequence[RawRows]:
    """Domains of which no two share a label as one: the more classes to tell apart, the more a step teaches."""
    seen = [vector for rows in domains for vector in rows.by_vector]
    if len(set(seen)) < len(seen):
        return domains
    together = RawRows(
        prepared=[item for rows in domains for item in rows.prepared],
        size_N=torch.cat([rows.size_N for rows in domains]),
        vector_N=torch.cat([rows.vector_N for rows in domains]),
    )
    return [together]


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))
