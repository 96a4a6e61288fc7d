"""The base learner: all it takes to answer queries of one adapted domain. Immutable; predicting changes nothing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.calibration import Familiarity, prediction_sets
from learning.config import Similarity
from learning.grafts import Graft
from learning.heads import LinearHead
from learning.intervals import HeldOutHeads
from learning.parameters import TransferParameters, embed
from learning.statistics import RidgeStatistics
from learning.types import FittedFeaturiser, Inputs, Modality, Task

#: A query this unlike every known example is answered, but flagged.
ABSTAIN_ABOVE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a base learner says about Q queries.

    Classification: `probs_QC` (calibrated, rows sum to 1) and `sets_QC` (bool, the prediction set; never empty).
    Regression: `values_Q` and `intervals_Q2` (lower and upper end), in the units of the labels.
    Always: `ood_Q` in [0, 1] (near 1: unlike anything the learner has seen) and `abstain_Q` (bool).
    """

    classes: tuple[str, ...]
    probs_QC: Tensor | None
    sets_QC: Tensor | None
    values_Q: Tensor | None
    intervals_Q2: Tensor | None
    ood_Q: Tensor
    abstain_Q: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline:
    """Inputs to outputs: featurise, embed by the learned metric where there is one, apply the head.

    Outputs are logits up to the temperature (classification) or labels in their own units (regression).
    """

    featuriser: FittedFeaturiser
    parameters: TransferParameters | None
    similarity: Similarity
    head: LinearHead

    def outputs(self, inputs: Inputs) -> Tensor:
        """(Q, T) float64."""
        return self.outputs_of(self.featuriser.transform(inputs))

    def outputs_of(self, features_QF: Tensor) -> Tensor:
        """(Q, T) float64 for rows that were featurised already."""
        return self.head(self.embedded(features_QF))

    def reads_like(self, other: "Pipeline") -> bool:
        """Whether the heads of both take the same features."""
        return self.featuriser is other.featuriser and self.parameters is other.parameters

    def embedded(self, features_QF: Tensor) -> Tensor:
        """What the head takes, float64."""
        features_QF = features_QF.double()
        return features_QF if self.parameters is None else embed(self.parameters, features_QF, self.similarity)


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseLearner:
    """An adapted model.

    `temperature` and `set_threshold` serve classification; `held_out_heads` regression, and where there are none one
    `interval_half_width` (infinite where the support is too small to promise the coverage). `support_rows` are the rows
    of the target dataset behind `familiarity.reference_NF`, `support_labels` their labels. With `statistics` (of a
    ridge head) examples and classes can be added without the old data: `learning.extension`. `graft` is what the
    encoder has to wear; None: nothing.
    """

    modality: Modality
    task: Task
    strategy: str
    encoder: str
    encoder_revision: str
    columns: dict[str, str]
    classes: tuple[str, ...]
    pipeline: Pipeline
    temperature: float
    set_threshold: float
    coverage: float
    interval_half_width: float
    held_out_heads: HeldOutHeads | None
    statistics: RidgeStatistics | None
    familiarity: Familiarity
    support_rows: tuple[int, ...]
    support_labels: tuple[str, ...] | tuple[float, ...]
    graft: Graft | None = None

    def predict(self, inputs: Inputs) -> Answers:
        """Answers for every row; a row's answer does not depend on the others."""
        return self.answers_to(self.pipeline.featuriser.transform(inputs))

    def answers_to(self, features_QF: Tensor) -> Answers:
        """Answers for rows that were featurised already."""
        outputs_QT, ood_Q = self.pipeline.outputs_of(features_QF), self.familiarity.ood(features_QF)
        probs_QC = sets_QC = values_Q = intervals_Q2 = None
        if self.task == "classification":
            probs_QC = (outputs_QT / self.temperature).softmax(1)
            sets_QC = prediction_sets(probs_QC, self.set_threshold)
        else:
            values_Q = outputs_QT[:, 0]
            intervals_Q2 = self._intervals(features_QF, values_Q)
        return Answers(
            classes=self.classes,
            probs_QC=probs_QC,
            sets_QC=sets_QC,
            values_Q=values_Q,
            intervals_Q2=intervals_Q2,
            ood_Q=ood_Q,
            abstain_Q=ood_Q > ABSTAIN_ABOVE,
        )

    def _intervals(self, features_QF: Tensor, values_Q: Tensor) -> Tensor:
        if self.held_out_heads is not None:
            return self.held_out_heads.intervals(self.pipeline.embedded(features_QF), self.coverage)
        half = self.interval_half_width
        return torch.stack([values_Q - half, values_Q + half], dim=1)

    def neighbours(self, inputs: Inputs, k: int) -> tuple[Tensor, Tensor]:
        """(Q, K) positions in `support_rows` of the most similar support examples, and their cosine similarities."""
        features_QF = F.normalize(self.pipeline.featuriser.transform(inputs).float(), dim=1)
        reference_NF = F.normalize(self.familiarity.reference_NF.float(), dim=1)
        similarity_QN = features_QF @ reference_NF.T
        similarity_QK, index_QK = similarity_QN.topk(min(k, similarity_QN.shape[1]), dim=1)
        return index_QK, similarity_QK

    @property
    def is_finite(self) -> bool:
        """Whether every learned number is usable."""
        head = self.pipeline.head
        return bool(
            torch.isfinite(head.weight_TF).all()
            and torch.isfinite(head.bias_T).all()
            and torch.isfinite(self.familiarity.reference_NF).all()
            and all(map(math.isfinite, (self.temperature, self.familiarity.typical, self.familiarity.spread)))
        )
