"""What the transfer strategies know besides the support: the sources in one feature space, the learned parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.config import MAX_SOURCE_ROWS, MetricOptions, Similarity, StrategyOptions
from learning.encoders.tabular import FittedQuantileFeaturiser
from learning.errors import InvalidData
from learning.featurisers import FittedCentring
from learning.meta import MetaLearner
from learning.parameters import TransferParameters, default_parameters
from learning.sources import SourceBank, build_bank
from learning.types import Domain, Featuriser, FittedFeaturiser, Inputs, LabelledSet


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferContext:
    """What the transfer strategies know besides the support: a fixed feature space, the sources in it, the parameters.

    The space was fitted on sources only, so nothing of a held-out target row is in it. `learned` is whether the
    parameters come from a meta-learner.
    """

    featuriser: FittedFeaturiser
    bank: SourceBank | None
    parameters: TransferParameters
    similarity: Similarity
    learned: bool

    def around(self, support: LabelledSet) -> "TransferContext":
        """The context as a target reads it whose classes no source names: centred on the support, not on the sources.

        What all rows of a domain share says nothing about its classes, and hides what does. With shared classes it has
        to stay, because the sources' heads count on it.
        """
        shared = self.bank is not None and self.bank.shared_with(support.classes)
        if not support.classes or shared or not isinstance(self.featuriser, FittedCentring):
            return self
        return replace(self, featuriser=self.featuriser.around(support.inputs))


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceUse:
    """How a fitted candidate used the sources: a weight per bank row (metric) or per domain (init)."""

    bank_row_M: Tensor
    weights_M: Tensor
    domain_weights_D: Tensor


def make_context(
    sources: Sequence[Domain],
    featuriser: Featuriser,
    options: StrategyOptions,
    meta_learner: MetaLearner | None,
    generator: torch.Generator,
    *,
    target: Inputs,
) -> TransferContext | None:
    """The sources in one feature space with the parameters to transfer by; None where there is nothing to transfer.

    Of tables the target's rows have a say in the columns' scales: a column that the sources hardly filled has none of
    its own there. Labels play no part in it.
    """
    if not sources and meta_learner is None:
        return None
    if meta_learner is not None:
        fitted, similarity = meta_learner.featuriser, meta_learner.similarity
    else:
        fitted = featuriser.fit([source.data.inputs for source in sources])
        similarity = options.similarity if isinstance(options, MetricOptions) else "cosine"
    if sources and isinstance(fitted, FittedQuantileFeaturiser) and _reads(fitted, target):
        fitted = fitted.rescaled([*(source.data.inputs for source in sources), target])
    bank = build_bank(sources, fitted, max_rows=MAX_SOURCE_ROWS, generator=generator) if sources else None
    learned = meta_learner is not None
    parameters = meta_learner.parameters if meta_learner is not None else default_parameters(fitted.width)
    return TransferContext(
        featuriser=fitted, bank=bank, parameters=parameters.to(torch.float64), similarity=similarity, learned=learned
    )


def can_read(context: TransferContext | None, support: LabelledSet) -> bool:
    """Whether the sources' feature space has anything in common with the target's inputs."""
    return context is None or _reads(context.featuriser, support.inputs)


def _reads(featuriser: FittedFeaturiser, inputs: Inputs) -> bool:
    try:
        featuriser.transform(inputs)
    except InvalidData:
        return False
    return True
