"""What a way to fit a base learner to one support set is, and the one that transfers nothing.

Those that transfer are in `learning.transfer_candidates`.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from learning.base_learner import Pipeline
from learning.config import TargetOnlyOptions
from learning.context import SourceUse
from learning.encoders.tabular import QuantileFeaturiser
from learning.stacking import StackTuning, fit_stack, tune_stack
from learning.statistics import RidgeProblem
from learning.support_head import (
    choose_regularisation,
    fit_head,
    ridge_problem,
)
from learning.types import Featuriser, LabelledSet


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedCandidate:
    """`problem`: what a ridge head was fitted on; None for any other head."""

    pipeline: Pipeline
    sources: SourceUse | None = None
    problem: RidgeProblem | None = None


class Candidate(Protocol):
    """A strategy bound to its options and context."""

    @property
    def name(self) -> str: ...

    def tuned(self, support: LabelledSet) -> "Candidate":
        """The same candidate with every open hyper-parameter fixed to what suits `support`.

        Done once, before the held-out scoring: choosing among a few values inside every fold as well costs ten times
        the time and moves a score by less than its interval.
        """
        ...

    def fit(self, support: LabelledSet) -> FittedCandidate:
        """Fits on `support` alone (plus the context). A class of `support.classes` may have no row in a fold."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetOnly:
    """The base learner on the support alone: logistic regression, or ridge with exact leave-one-out.

    A table's linear head is averaged with a kernel and a forest (`learning.stacking`), unless a ridge head or its
    regularisation is asked for by name: that head alone can be extended without the old rows.
    """

    featuriser: Featuriser
    options: TargetOnlyOptions
    seed: int = 0
    name: str = "target_only"
    stack: StackTuning | None = None

    def tuned(self, support: LabelledSet) -> "TargetOnly":
        linear = self.options.regularisation is not None or (support.classes and self.options.head == "ridge")
        if isinstance(self.featuriser, QuantileFeaturiser) and not linear:
            return replace(self, stack=tune_stack(self.featuriser, support, self.seed))
        fitted = self.featuriser.fit([support.inputs])
        strength = choose_regularisation(fitted.transform(support.inputs).double(), support, self.options, self.seed)
        return replace(self, options=replace(self.options, regularisation=strength))

    def fit(self, support: LabelledSet) -> FittedCandidate:
        if self.stack is not None and isinstance(self.featuriser, QuantileFeaturiser):
            stacked, head = fit_stack(self.featuriser, support, self.stack, self.seed)
            return FittedCandidate(
                pipeline=Pipeline(featuriser=stacked, parameters=None, similarity="cosine", head=head)
            )
        fitted = self.featuriser.fit([support.inputs])
        features_SF = fitted.transform(support.inputs).double()
        head = fit_head(features_SF, support, self.options, self.seed)
        return FittedCandidate(
            pipeline=Pipeline(featuriser=fitted, parameters=None, similarity="cosine", head=head),
            problem=ridge_problem(features_SF, support, self.options),
        )
