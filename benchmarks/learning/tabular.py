"""The library on tables as a suite drives it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from learning.adaptation import Adaptation, adapt
from learning.config import STRATEGIES, MetaTrainOptions
from learning.errors import UselessModel
from learning.featurisers import featuriser_for
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, LabelledSet, Table


def numeric_table(columns: Sequence[str], rows_NF: NDArray[np.float64]) -> Table:
    """All columns as numbers, NaN where missing: what an upload of such a file becomes."""
    return Table(numeric={name: rows_NF[:, i] for i, name in enumerate(columns)}, categorical={})


def learn_tables(sources: Sequence[Domain], options: MetaTrainOptions, *, seed: int = 0) -> MetaLearner:
    """A meta-learner of tables."""
    return meta_train(
        sources=sources, featuriser=featuriser_for("tabular"), modality="tabular", encoder="quantile",
        encoder_revision="", columns={}, options=options, seed=seed, progress=_silent,
    )  # fmt: skip


def adapt_table(
    strategy: str,
    support: LabelledSet,
    *,
    sources: Sequence[Domain] = (),
    learner: MetaLearner | None = None,
    seed: int = 0,
) -> Adaptation | None:
    """The strategy with its default options; None where the library refuses to publish what came out."""
    transfers = strategy != "target_only"
    try:
        return adapt(
            target=Domain(name="target", data=support), sources=sources if transfers else (),
            featuriser=featuriser_for("tabular"), modality="tabular", encoder="quantile", encoder_revision="",
            columns={}, strategy=strategy, options=STRATEGIES[strategy](),
            meta_learner=learner if transfers else None, seed=seed, progress=_silent,
        )  # fmt: skip
    except UselessModel:
        return None


def in_order(adaptation: Adaptation, table: Table, classes: Sequence[str]) -> torch.Tensor:
    """(Q, C) probabilities in the order of `classes`; 0 for a class the learner does not know."""
    answers = adaptation.learner.predict(table)
    assert answers.probs_QC is not None  # noqa: S101 - it is a classification
    probs_QC = torch.zeros(len(table), len(classes), dtype=torch.float64)
    probs_QC[:, [list(classes).index(name) for name in answers.classes]] = answers.probs_QC
    return probs_QC


def _silent(_fraction: float, _phase: str) -> None:
    """No progress bar: the table is the output."""
