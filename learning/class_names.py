"""Class names as examples: where sources cannot say what a class is, its own name often can.

Texts only. A name ("card arrival") becomes one more row of its class beside the labelled ones, encoded like them and
moved to where they lie, because names and examples differ in style as a whole. Names that say nothing ("A", "class 7")
are noticed by how badly they sort the support.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.candidates import Candidate, FittedCandidate
from learning.types import Features, LabelledSet

#: Names have to sort the support better than chance by this many standard deviations.
BETTER_THAN_CHANCE = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassNames:
    """`inputs` are the encoded names, one row for each class of `row_of`."""

    row_of: Mapping[str, int]
    inputs: Features


def spoken(name: str) -> str:
    """A class name as a text: "card_arrival" and "cardArrival" are words too."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[_\-./:]+", " ", words).strip() or name


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """A candidate whose support has one more row per class: its name. `graft` is the view that tells whether it may."""

    candidate: Candidate
    names: ClassNames
    graft: str

    @property
    def name(self) -> str:
        return self.candidate.name

    def tuned(self, support: LabelledSet) -> Candidate:
        """The candidate alone where the names do not sort the support."""
        if not _sorts(support, self.names, self.graft):
            return self.candidate.tuned(support)
        return replace(self, candidate=self.candidate.tuned(with_names(support, self.names)))

    def fit(self, support: LabelledSet) -> FittedCandidate:
        return self.candidate.fit(with_names(support, self.names))


def with_names(support: LabelledSet, names: ClassNames) -> LabelledSet:
    """The support followed by one row per class."""
    assert isinstance(support.inputs, Features)  # noqa: S101 - names are texts, and texts are encoded
    chosen_C = torch.tensor([names.row_of[name] for name in support.classes])
    own, spoken_ = support.inputs, names.inputs.select(chosen_C)
    inputs = Features(
        matrix_NF=_beside(own.matrix_NF, spoken_.matrix_NF),
        grafted={graft: _beside(rows_NF, spoken_.under(graft)) for graft, rows_NF in own.grafted.items()},
    )
    labels_N = torch.cat([support.labels_N, torch.arange(len(support.classes))])
    return LabelledSet(inputs=inputs, labels_N=labels_N, classes=support.classes)


def _beside(rows_SF: Tensor, names_CF: Tensor) -> Tensor:
    """(S + C, F): the names moved so that their mean is that of the rows."""
    return torch.cat([rows_SF, names_CF - names_CF.mean(0) + rows_SF.mean(0)])


def _sorts(support: LabelledSet, names: ClassNames, graft: str) -> bool:
    """Whether the nearest name is a support row's class far more often than chance. No row is learned from for this."""
    whole = with_names(support, names).inputs
    assert isinstance(whole, Features)  # noqa: S101
    rows_NF = whole.under(graft)
    centred_NF = F.normalize(rows_NF - rows_NF[: len(support)].mean(0), dim=1)
    nearest_S = (centred_NF[: len(support)] @ centred_NF[len(support) :].T).argmax(1)
    hits, chance = int((nearest_S == support.labels_N).sum()), len(support) / len(support.classes)
    spread = math.sqrt(chance * (1 - 1 / len(support.classes)))
    return hits - chance > BETTER_THAN_CHANCE * spread
