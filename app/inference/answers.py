"""What a base learner says, as the prediction objects of the API."""

from typing import Any

import torch

from learning.base_learner import Answers, BaseLearner
from learning.types import Inputs

N_EVIDENCE = 5

Prediction = dict[str, Any]


def predictions(learner: BaseLearner, inputs: Inputs, *, top_k: int, explain: bool) -> list[Prediction]:
    """One prediction object per row of `inputs`, in order."""
    answers = learner.predict(inputs)
    one = _regression if answers.probs_QC is None else _classification
    found = [one(answers, query, top_k) for query in range(len(inputs))]
    evidence = _evidence(learner, inputs) if explain else [[] for _ in found]
    return [
        prediction
        | {
            "ood_score": round(float(answers.ood_Q[query]), 6),
            "abstain": bool(answers.abstain_Q[query]),
            "evidence": evidence[query],
        }
        for query, prediction in enumerate(found)
    ]


def _classification(answers: Answers, query: int, top_k: int) -> Prediction:
    assert answers.probs_QC is not None  # noqa: S101 - classification always has both
    assert answers.sets_QC is not None  # noqa: S101
    probs_C = answers.probs_QC[query]
    # Stable, so that ties are answered in the order of the classes.
    order = torch.sort(probs_C, descending=True, stable=True).indices.tolist()
    in_set = answers.sets_QC[query].tolist()
    return {
        "label": answers.classes[order[0]],
        "probability": float(probs_C[order[0]]),
        "probabilities": {answers.classes[i]: float(probs_C[i]) for i in order[:top_k]},
        "prediction_set": [answers.classes[i] for i in order if in_set[i]],
    }


def _regression(answers: Answers, query: int, _top_k: int) -> Prediction:
    assert answers.values_Q is not None  # noqa: S101 - regression always has both
    assert answers.intervals_Q2 is not None  # noqa: S101
    low, high = answers.intervals_Q2[query].tolist()
    return {"value": float(answers.values_Q[query]), "interval": [low, high]}


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
