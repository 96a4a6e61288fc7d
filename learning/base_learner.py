"""The base learner: all it takes to answer queries of one adapted domain. Immutable; predicting changes nothing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.calibration import Familiarity, prediction_sets
from learning.config import Similarity
from learning.heads import LinearHead
from learning.parameters import TransferParameters, embed
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
        features_QF = features_QF.double()
        if self.parameters is not None:
            features_QF = embed(self.parameters, features_QF, self.similarity)
        return self.head(features_QF)


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseLearner:
    """An adapted model.

    `temperature` and `set_threshold` serve classification; `interval_half_width` regression (infinite where the support
    is too small to promise the coverage). `support_rows` are the rows of the target dataset behind
    `familiarity.reference_NF`, `support_labels` their labels.
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
    interval_half_width: float
    familiarity: Familiarity
    support_rows: tuple[int, ...]
    support_labels: tuple[str, ...] | tuple[float, ...]

    def predict(self, inputs: Inputs) -> Answers:
        """Answers for every row; a row's answer does not depend on the others."""
        features_QF = self.pipeline.featuriser.transform(inputs)
        outputs_QT, ood_Q = self.pipeline.outputs_of(features_QF), self.familiarity.ood(features_QF)
        probs_QC = sets_QC = values_Q = intervals_Q2 = None
        if self.task == "classification":
            probs_QC = (outputs_QT / self.temperature).softmax(1)
            sets_QC = prediction_sets(probs_QC, self.set_threshold)
        else:
            values_Q = outputs_QT[:, 0]
            half = self.interval_half_width
            intervals_Q2 = torch.stack([values_Q - half, values_Q + half], dim=1)
        return Answers(
            classes=self.classes,
            probs_QC=probs_QC,
            sets_QC=sets_QC,
            values_Q=values_Q,
            intervals_Q2=intervals_Q2,
            ood_Q=ood_Q,
            abstain_Q=ood_Q > ABSTAIN_ABOVE,
        )

    def neighbours(self, inputs: Inputs, k: int) -> tuple[Tensor, Tensor]:
        """(Q, K) positions in `support_rows` of the most similar support examples, and their cosine similarities."""
        features_QF = F.normalize(self.pipeline.featuriser.transform(inputs).float(), dim=1)
        reference_NF = F.normalize(self.familiarity.reference_NF, dim=1)
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
