"""The meta-learner: learns over many transfer tasks of the source domains how to transfer (stage B, on cached
features).

Parameters (`learning.parameters`) are trained by the query loss of both transfer learners over episodes. A held-out
source domain, which never plays a training target, stops the training early and gives the card: the gain over
target_only per number of shots.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.card import make_card
from learning.config import MetaTrainOptions, Similarity
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.errors import InvalidData
from learning.initialisation import init_outputs
from learning.metric import metric_outputs
from learning.parameters import TransferParameters, default_parameters
from learning.sources import SourceBank, build_bank
from learning.types import Domain, Featuriser, FittedFeaturiser, Modality, Progress, Task

#: Inner steps unrolled in meta-training; adaptation may take more, with the same learned step.
UNROLLED_STEPS = 10
#: Steps between two looks at the held-out loss.
CHECK_EVERY = 25
#: Looks without improvement after which training stops.
PATIENCE = 3
VALIDATION_BATCHES = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaLearner:
    """What adaptation needs: the feature space, the learned parameters, and what they are worth (`card`)."""

    modality: Modality
    task: Task
    encoder: str
    encoder_revision: str
    columns: dict[str, str]
    similarity: Similarity
    featuriser: FittedFeaturiser
    parameters: TransferParameters
    card: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """`loss` is the mean query loss of the step's episodes; `held_out` that of the validation episodes, if seen."""

    step: int
    loss: float
    held_out: float | None


def episode_loss(parameters: TransferParameters, batch: EpisodeBatch, similarity: Similarity) -> Tensor:
    """Mean query loss of both transfer learners: cross-entropy, or squared error in support deviations (Huber)."""
    outputs = (
        metric_outputs(parameters, batch.task, batch.query_EQF, similarity=similarity),
        init_outputs(parameters, batch.task, batch.query_EQF, similarity=similarity, steps=UNROLLED_STEPS),
    )
    return torch.stack([query_loss(outputs_EQT, batch).mean() for outputs_EQT in outputs]).mean()


def query_loss(outputs_EQT: Tensor, batch: EpisodeBatch) -> Tensor:
    """(E, Q)."""
    if batch.task.classification:
        return -(outputs_EQT.log_softmax(-1) * batch.query_targets_EQT).sum(-1)
    return F.huber_loss(outputs_EQT, batch.query_targets_EQT, reduction="none").squeeze(-1)


def shrunk_covariance(centred_NF: Tensor) -> Tensor:
    """(F, F) covariance of centred rows, shrunk toward a multiple of the identity (OAS: Chen et al. 2010, eq. 23)."""
    n_rows, width = centred_NF.shape
    covariance_FF = centred_NF.T @ centred_NF / n_rows
    trace, squares = covariance_FF.trace(), covariance_FF.square().sum()
    numerator = (1 - 2 / width) * squares + trace.square()
    denominator = (n_rows + 1 - 2 / width) * (squares - trace.square() / width)
    shrinkage = (numerator / denominator.clamp_min(1e-12)).clamp(0.01, 1.0)
    identity_FF = torch.eye(width, dtype=torch.float64)
    return (1 - shrinkage) * covariance_FF + shrinkage * trace.clamp_min(1e-9) / width * identity_FF


def initial_projection(bank: SourceBank, rows_N: Tensor, width: int) -> Tensor:
    """(P, F) discriminant directions (LDA) of the bank's rows `rows_N` (bool): where metric learning starts.

    Between-class scatter is that of each domain's class means around its own mean, within-class that of rows around
    their class mean in their domain, so that a direction which only tells domains apart does not count. What classes
    differ by in every domain comes first. Regression: principal axes.
    """
    features_NF = bank.features_NF[rows_N].double()
    group_N = (bank.domain_N * max(len(bank.classes), 1) + bank.labels_N)[rows_N]
    groups, inverse_N = group_N.unique(return_inverse=True)
    counts_G = torch.bincount(inverse_N).double()
    means_GF = torch.zeros(len(groups), features_NF.shape[1], dtype=torch.float64)
    means_GF = means_GF.index_add(0, inverse_N, features_NF) / counts_G[:, None]
    within_NF = features_NF - means_GF[inverse_N]
    if bank.classification:
        domain_G = groups // len(bank.classes)
        domain_means = [means_GF[domain_G == domain].mean(0) for domain in domain_G]
        between_CF = means_GF - torch.stack(domain_means)
    else:
        between_CF = within_NF
    factor_FF = torch.linalg.cholesky(shrunk_covariance(within_NF))
    whitened_FC = torch.linalg.solve_triangular(factor_FF, between_CF.T, upper=False)
    directions_FP = torch.linalg.svd(whitened_FC, full_matrices=False).U[:, :width]
    projection_PF: Tensor = torch.linalg.solve_triangular(factor_FF.T, directions_FP, upper=True).T
    spread = (features_NF @ projection_PF.T).square().sum(1).mean().sqrt().clamp_min(1e-6)
    return projection_PF / spread


@dataclass(frozen=True, kw_only=True, eq=False)
class _Split:
    """Samplers for training and for the held-out look, the rows that start the metric, and what was held out.

    The metric starts from rows that no episode uses: on rows it was fitted to, any metric looks perfect, and episodes
    would teach to trust it blindly.
    """

    train: EpisodeSampler
    held_out: EpisodeSampler
    metric_rows_N: Tensor
    description: str


def split_sources(bank: SourceBank, options: MetaTrainOptions, generator: torch.Generator) -> _Split:
    """Holds out one domain of three or more, else a third of many classes, else of the rows."""
    n_domains = len(bank.names)
    domains = rest = held = tuple(range(n_domains))
    if n_domains >= 3:
        held = (int(torch.randint(n_domains, (), generator=generator)),)
        rest = tuple(domain for domain in domains if domain not in held)
        held_N, description = torch.isin(bank.domain_N, torch.tensor(held)), f"domain {bank.names[held[0]]}"
    else:
        held_N, description = _held_rows(bank, generator)
    metric_rows_N = ~held_N & (_rank_in_group(bank, generator) % 2 == 0)
    train = EpisodeSampler(
        bank=bank, targets=rest, helpers=rest, pool_N=~held_N & ~metric_rows_N, options=options.episode
    )
    held_out = EpisodeSampler(bank=bank, targets=held, helpers=rest, pool_N=held_N, options=options.episode)
    return _Split(train=train, held_out=held_out, metric_rows_N=metric_rows_N, description=description)


def _rank_in_group(bank: SourceBank, generator: torch.Generator) -> Tensor:
    """(N,) each row's place in a random order of its own domain and class."""
    group_N = bank.domain_N * max(len(bank.classes), 1) + bank.labels_N
    order_N = torch.randperm(len(group_N), generator=generator)
    rank_N = torch.empty_like(order_N)
    for group in group_N.unique():
        members = order_N[group_N[order_N] == group]
        rank_N[members] = torch.arange(len(members))
    return rank_N


def _held_rows(bank: SourceBank, generator: torch.Generator) -> tuple[Tensor, str]:
    n_classes = len(bank.classes)
    if n_classes >= 9:
        held_C = torch.zeros(n_classes, dtype=torch.bool)
        held_C[torch.randperm(n_classes, generator=generator)[: n_classes // 3]] = True
        return held_C[bank.labels_N], f"{n_classes // 3} of {n_classes} classes"
    return torch.rand(len(bank.labels_N), generator=generator) < 1 / 3, "a third of the rows"


def train_steps(
    parameters: TransferParameters, split: _Split, options: MetaTrainOptions, generator: torch.Generator
) -> Iterator[tuple[StepReport, TransferParameters]]:
    """Adam on the episode loss; after every step its report and the best parameters so far by held-out loss."""
    tensors = {name: tensor.float().clone().requires_grad_() for name, tensor in parameters.tensors().items()}
    current = TransferParameters.from_tensors(tensors)
    optimiser = torch.optim.Adam(
        [
            {"params": [tensors["projection_PF"]], "lr": 0.01 * options.lr},
            {"params": [tensor for name, tensor in tensors.items() if name != "projection_PF"], "lr": options.lr},
        ]
    )
    validation = [
        split.held_out.draw(options.episodes_per_step, generator, all_sources=True) for _ in range(VALIDATION_BATCHES)
    ]
    best, best_loss = _detached(current), _held_out_loss(current, validation, options.similarity)
    stale = 0
    for step in range(1, options.steps + 1):
        optimiser.zero_grad()
        batch = split.train.draw(options.episodes_per_step, generator)
        loss = episode_loss(current, batch, options.similarity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), 1.0)
        optimiser.step()
        held_out = None
        if step % CHECK_EVERY == 0 or step == options.steps:
            held_out = _held_out_loss(current, validation, options.similarity)
            stale = stale + 1 if held_out >= best_loss else 0
            if held_out < best_loss:
                best, best_loss = _detached(current), held_out
        yield StepReport(step=step, loss=float(loss.detach()), held_out=held_out), best
        if stale == PATIENCE:
            return


def _held_out_loss(parameters: TransferParameters, batches: Sequence[EpisodeBatch], similarity: Similarity) -> float:
    with torch.no_grad():
        return float(torch.stack([episode_loss(parameters, batch, similarity) for batch in batches]).mean())


def _detached(parameters: TransferParameters) -> TransferParameters:
    return TransferParameters(**{name: t.detach().clone() for name, t in parameters.tensors().items()})


def meta_train(
    *,
    sources: Sequence[Domain],
    featuriser: Featuriser,
    modality: Modality,
    encoder: str,
    encoder_revision: str,
    columns: dict[str, str],
    options: MetaTrainOptions,
    seed: int,
    progress: Progress,
) -> MetaLearner:
    """Trains a meta-learner over `sources`. The same seed gives the same bytes on one CPU.

    Raises `InvalidData` where no episode can be drawn (no two classes with two examples), `IncompatibleDomain` where
    the sources mix tasks.
    """
    if not sources:
        raise InvalidData("meta-training needs at least one source", hint="name datasets in `sources`")
    generator = torch.Generator().manual_seed(seed)
    fitted = featuriser.fit([domain.data.inputs for domain in sources])
    progress(0.0, "preparing sources")
    bank = build_bank(sources, fitted, max_rows=options.max_rows_per_source, generator=generator)
    split = split_sources(bank, options, generator)
    if not (split.train.is_possible and split.held_out.is_possible):
        split = _without_holding_out(split)
    parameters, steps = _train(bank, split, options, generator, progress)
    parameters = parameters.to(torch.float32)
    card = make_card(
        parameters,
        split.held_out,
        options,
        generator,
        description=split.description,
        progress=lambda done: progress(0.8 + 0.2 * done, "evaluating"),
    )
    return MetaLearner(
        modality=modality,
        task=sources[0].data.task,
        encoder=encoder,
        encoder_revision=encoder_revision,
        columns=columns,
        similarity=options.similarity,
        featuriser=fitted,
        parameters=parameters,
        card=card | _training_summary(sources, steps),
    )


def _train(
    bank: SourceBank, split: _Split, options: MetaTrainOptions, generator: torch.Generator, progress: Progress
) -> tuple[TransferParameters, list[StepReport]]:
    """The best parameters by held-out loss, and a report of every step. Training is four fifths of the progress."""
    projection_PF = initial_projection(bank, split.metric_rows_N, options.projection_width)
    parameters = default_parameters(bank.width, projection_PF)
    steps: list[StepReport] = []
    for report, best in train_steps(parameters, split, options, generator):
        steps.append(report)
        parameters = best
        progress(0.8 * report.step / options.steps, "meta-training")
    return parameters, steps


def _without_holding_out(split: _Split) -> _Split:
    """Everything for everything, where rows are too few to keep any apart; the card says so."""
    everything = replace(split.train, targets=split.train.helpers, pool_N=torch.ones_like(split.metric_rows_N))
    return replace(
        split,
        train=everything,
        held_out=everything,
        metric_rows_N=everything.pool_N,
        description="nothing: too few rows to hold any out",
    )


def _training_summary(sources: Sequence[Domain], steps: Sequence[StepReport]) -> dict[str, Any]:
    looks = [report.held_out for report in steps if report.held_out is not None]
    return {
        "sources": [{"dataset": s.name, "examples_used": len(s.data), "classes": len(s.data.classes)} for s in sources],
        "steps": len(steps),
        "loss_first": steps[0].loss if steps else None,
        "loss_last": steps[-1].loss if steps else None,
        "held_out_loss": min(looks) if looks else None,
    }
