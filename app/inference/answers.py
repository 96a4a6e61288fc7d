"""What a base learner says, as the prediction objects of the API."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from learning.base_learner import Answers, BaseLearner
from learning.types import Inputs

N_EVIDENCE = 5

Prediction = dict[str, Any]


def predictions(learner: BaseLearner, inputs: Inputs, *, top_k: int, explain: bool) -> list[Prediction]:
    """One prediction object per row of `inputs`, in order."""
    answers = learner.predict(inputs)
    found = _regressions(answers) if answers.probs_QC is None else _classifications(answers, answers.probs_QC, top_k)
    evidence = _evidence(learner, inputs) if explain else [[] for _ in range(len(inputs))]
    return [
        prediction | {"ood_score": round(ood, 6), "abstain": abstain, "evidence": examples}
        for prediction, ood, abstain, examples in zip(
            found, answers.ood_Q.tolist(), answers.abstain_Q.tolist(), evidence, strict=True
        )
    ]


def _classifications(answers: Answers, probs_QC: Tensor, top_k: int) -> Iterator[Prediction]:
    assert answers.sets_QC is not None  # noqa: S101 - classification always has them
    for probs_C, in_set_C in zip(probs_QC.tolist(), answers.sets_QC.tolist(), strict=True):
        # Stable, so that ties are answered in the order of the classes.
        order = sorted(range(len(probs_C)), key=probs_C.__getitem__, reverse=True)
        yield {
            "label": answers.classes[order[0]],
            "probability": probs_C[order[0]],
            "probabilities": {answers.classes[i]: probs_C[i] for i in order[:top_k]},
            "prediction_set": [answers.classes[i] for i in order if in_set_C[i]],
        }


def _regressions(answers: Answers) -> Iterator[Prediction]:
    assert answers.values_Q is not None  # noqa: S101 - regression always has both
    assert answers.intervals_Q2 is not None  # noqa: S101
    for value, interval in zip(answers.values_Q.tolist(), answers.intervals_Q2.tolist(), strict=True):
        yield {"value": value, "interval": interval}


def _evidence(learner: BaseLearner, inputs: Inputs) -> list[list[dict[str, Any]]]:
    """The support examples nearest to each query: their row in the target dataset (from 0), label and similarity."""
    index_QK, similarity_QK = learner.neighbours(inputs, N_EVIDENCE)
    rows, labels = learner.support_rows, learner.support_labels
    return [
        [
            {"example": rows[position], "label": labels[position], "similarity": round(similarity, 6)}
            for position, similarity in zip(positions, similarities, strict=True)
        ]
        for positions, similarities in zip(index_QK.tolist(), similarity_QK.tolist(), strict=True)
    ]
