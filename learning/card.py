"""The card of a meta-learner: what transferring gained over target_only on held-out episodes, per number of shots."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learning.config import MetaTrainOptions, Similarity
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.heads import LOGISTIC_REGULARISATION, with_bias
from learning.initialisation import GeneratedInit, fine_tune, init_outputs
from learning.metric import metric_outputs
from learning.parameters import TransferParameters

#: Gradient steps of the batched logistic regression that stands for target_only.
_BASELINE_STEPS = 100
_INIT_STEPS = 10


def interval95(values: Sequence[float]) -> tuple[float, float]:
    """Mean ± 1.96 standard errors; the mean itself where one value leaves no spread to estimate."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = 1.96 * math.sqrt(variance / len(values))
    return mean - half, mean + half


def target_only_outputs(batch: EpisodeBatch) -> Tensor:
    """(E, Q, T) of a head fitted on each support alone: gradient steps from zero toward the regularised optimum."""
    support_ESF, targets_EST = batch.task.support_ESF, batch.task.support_targets_EST
    n_episodes, n_support, width = support_ESF.shape
    start = GeneratedInit(
        head_EFT=torch.zeros(n_episodes, width + 1, targets_EST.shape[2]),
        domain_weights_ED=torch.zeros(n_episodes, 0),
        regularisation_E=torch.full((n_episodes,), LOGISTIC_REGULARISATION / n_support),
        step_E=torch.ones(n_episodes),
    )
    head_EFT = fine_tune(
        start, support_ESF, targets_EST, steps=_BASELINE_STEPS, classification=batch.task.classification
    )
    return with_bias(batch.query_EQF) @ head_EFT


def episode_scores(outputs_EQT: Tensor, batch: EpisodeBatch) -> Tensor:
    """(E,) accuracy, or for regression 1 - squared error relative to the support's variance, floored at -1."""
    if batch.task.classification:
        return (outputs_EQT.argmax(-1) == batch.query_targets_EQT.argmax(-1)).float().mean(1)
    return (1 - (outputs_EQT - batch.query_targets_EQT).square().mean((1, 2))).clamp_min(-1.0)


def _scores_at(
    parameters: TransferParameters,
    sampler: EpisodeSampler,
    shots: int,
    n_episodes: int,
    similarity: Similarity,
    generator: torch.Generator,
) -> tuple[int, dict[str, list[float]]]:
    """Scores of every strategy on the same episodes, and the number of shots that could be drawn."""
    scores: dict[str, list[float]] = {"target_only": [], "metric": [], "init": []}
    drawn, per_batch = shots, 10
    for _ in range(math.ceil(n_episodes / per_batch)):
        batch = sampler.draw(per_batch, generator, shots=shots)
        drawn = batch.shots
        outputs = {
            "target_only": target_only_outputs(batch),
            "metric": metric_outputs(parameters, batch.task, batch.query_EQF, similarity=similarity),
            "init": init_outputs(parameters, batch.task, batch.query_EQF, similarity=similarity, steps=_INIT_STEPS),
        }
        for name, outputs_EQT in outputs.items():
            scores[name] += episode_scores(outputs_EQT, batch).tolist()
    return drawn, scores


def _entry(scores: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    differences = [score - base for score, base in zip(scores, baseline, strict=True)]
    mean = sum(differences) / len(differences)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1))
    return {
        "score": sum(scores) / len(scores),
        "interval": interval95(scores),
        "gain": {"value": mean, "interval": interval95(differences), "deviation": deviation},
    }


@torch.no_grad()
def make_card(
    parameters: TransferParameters,
    held_out: EpisodeSampler,
    options: MetaTrainOptions,
    generator: torch.Generator,
    *,
    description: str,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Scores and paired gains over target_only, each with a 95 % interval over episodes.

    `deviation` is the spread of the gain between tasks: how far one task's gain may lie from the mean.
    """
    honest = replace(held_out, options=replace(options.episode, hostile=0.0))
    gains: dict[int, dict[str, Any]] = {}
    for done, shots in enumerate(sorted(set(options.evaluation_shots))):
        drawn, scores = _scores_at(
            parameters, honest, shots, options.evaluation_episodes, options.similarity, generator
        )
        baseline = scores["target_only"]
        gains[drawn] = {
            "shots": drawn,
            "n_episodes": len(baseline),
            "target_only": {"score": sum(baseline) / len(baseline), "interval": interval95(baseline)},
        } | {name: _entry(scores[name], baseline) for name in ("metric", "init")}
        progress((done + 1) / len(options.evaluation_shots))
    measure = "accuracy" if held_out.bank.classification else "explained_variance"
    return {"measure": measure, "held_out": description, "episodes": list(gains.values())}
