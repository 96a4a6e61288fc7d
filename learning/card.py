"""The card: what transferring gained over target_only on held-out episodes, per number of shots.

A meta-learner brings its own. Where there is none, the sources of a job are asked what they gain from each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learning.config import TRANSFER, EpisodeOptions, MetaTrainOptions, Similarity
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.heads import LOGISTIC_REGULARISATION, with_bias
from learning.initialisation import GeneratedInit, fine_tune, init_outputs
from learning.metric import metric_outputs
from learning.parameters import TransferParameters
from learning.sources import SourceBank

#: Gradient steps of the batched logistic regression that stands for target_only.
_BASELINE_STEPS = 100
_INIT_STEPS = 10
#: Episodes drawn together.
_BATCH = 10
#: Episodes behind a card that is made for one job: enough to place a gain within a few points.
_JOB_EPISODES = 30
#: Of larger supports the held-out rows tell enough, and thirty episodes of their size would take minutes.
MOST_SUPPORT_ROWS = 400
#: The most ways of an episode.
_MOST_WAYS = 50


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
    support_ESF, targets_EST = batch.alone_support_ESG, batch.task.support_targets_EST
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
    return with_bias(batch.alone_query_EQG) @ head_EFT


def query_scores(outputs_EQT: Tensor, batch: EpisodeBatch) -> Tensor:
    """(E, Q) hit or miss, or for regression 1 - squared error relative to the support's variance, floored at -1."""
    if batch.task.classification:
        return (outputs_EQT.argmax(-1) == batch.query_targets_EQT.argmax(-1)).float()
    return (1 - (outputs_EQT - batch.query_targets_EQT).square().squeeze(-1)).clamp_min(-1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scores:
    """Of one number of shots: every strategy's query scores (N episodes, Q) on the same episodes."""

    shots: int
    by_strategy: dict[str, Tensor]


def _scores_at(
    parameters: TransferParameters, sampler: EpisodeSampler, shots: int, ways: int | None, options: MetaTrainOptions,
    generator: torch.Generator,
) -> _Scores:  # fmt: skip
    scores: dict[str, list[Tensor]] = {"target_only": [], "metric": [], "init": []}
    drawn = shots
    for _ in range(math.ceil(options.evaluation_episodes / _BATCH)):
        batch = sampler.draw(_BATCH, generator, shots=shots, ways=ways, all_sources=True)
        task, query_EQF, similarity, drawn = batch.task, batch.query_EQF, options.similarity, batch.shots
        outputs = {
            "target_only": target_only_outputs(batch),
            "metric": metric_outputs(parameters, task, query_EQF, similarity=similarity),
            "init": init_outputs(parameters, task, query_EQF, similarity=similarity, steps=_INIT_STEPS),
        }
        for name, outputs_EQT in outputs.items():
            scores[name].append(query_scores(outputs_EQT, batch))
    return _Scores(shots=drawn, by_strategy={name: _ragged_cat(parts) for name, parts in scores.items()})


def _ragged_cat(parts: Sequence[Tensor]) -> Tensor:
    """Batches may differ in ways and so in queries; the shortest row length is kept of all."""
    shortest = min(part.shape[1] for part in parts)
    return torch.cat([part[:, :shortest] for part in parts]).double()


def _entry(scores_NQ: Tensor, baseline_NQ: Tensor) -> dict[str, Any]:
    difference_NQ = scores_NQ - baseline_NQ
    gains_N = difference_NQ.mean(1)
    # Part of the spread between episodes is only that few queries were asked; tasks themselves differ by the rest.
    sampling = float(difference_NQ.var(1).mean()) / difference_NQ.shape[1] if difference_NQ.shape[1] > 1 else 0.0
    spread = float(gains_N.var()) if len(gains_N) > 1 else 0.0
    return {
        "score": float(scores_NQ.mean()),
        "interval": interval95(scores_NQ.mean(1).tolist()),
        "gain": {
            "value": float(gains_N.mean()),
            "interval": interval95(gains_N.tolist()),
            "deviation": math.sqrt(max(spread - sampling, spread / len(gains_N))),
        },
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
    ways: int | None = None,
) -> dict[str, Any]:
    """Scores and paired gains over target_only, each with a 95 % interval over episodes.

    Episodes have any number of ways where `ways` is None. `deviation` is the spread of the gain between tasks: how far
    one task's gain may lie from the mean.
    """
    honest = replace(held_out, options=replace(options.episode, hostile=0.0))
    gains: dict[int, dict[str, Any]] = {}
    for done, shots in enumerate(sorted(set(options.evaluation_shots))):
        scores = _scores_at(parameters, honest, shots, ways, options, generator)
        baseline_NQ = scores.by_strategy["target_only"]
        baseline = {"score": float(baseline_NQ.mean()), "interval": interval95(baseline_NQ.mean(1).tolist())}
        entry = {"shots": scores.shots, "n_episodes": len(baseline_NQ), "target_only": baseline}
        gains[scores.shots] = entry | {name: _entry(scores.by_strategy[name], baseline_NQ) for name in TRANSFER}
        progress((done + 1) / len(options.evaluation_shots))
    measure = "accuracy" if held_out.bank.classification else "explained_variance"
    return {"measure": measure, "held_out": description, "episodes": list(gains.values())}


def card_of_sources(
    bank: SourceBank, parameters: TransferParameters, *, similarity: Similarity, shots: int, ways: int, seed: int
) -> dict[str, Any] | None:
    """What transferring by `parameters` gains where each source in turn is the target of the others.

    Sources that are of no use to each other promise nothing to a target either. None of a single source, where none has
    two classes with two rows, and for supports of more than `MOST_SUPPORT_ROWS`.
    """
    everywhere = tuple(range(len(bank.names)))
    episode = EpisodeOptions(max_way=min(max(ways, 2), _MOST_WAYS), hostile=0.0)
    sampler = EpisodeSampler(
        bank=bank, targets=everywhere, helpers=everywhere, pool_N=torch.ones_like(bank.domain_N, dtype=torch.bool),
        options=episode,
    )  # fmt: skip
    too_many = shots * max(ways, 1) > MOST_SUPPORT_ROWS
    if len(everywhere) < 2 or too_many or not sampler.is_possible:
        return None
    options = MetaTrainOptions(
        similarity=similarity, evaluation_episodes=_JOB_EPISODES, evaluation_shots=(shots,), episode=episode
    )
    card = make_card(
        parameters.to(torch.float32), sampler, options, torch.Generator().manual_seed(seed),
        description="each source in turn", progress=lambda _done: None, ways=ways,
    )  # fmt: skip
    return card | {"meta_trained": False}
