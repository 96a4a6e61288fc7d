"""The meta-learner: learns over many transfer tasks of the source domains how to transfer (stage B, on cached
features).

Parameters (`learning.parameters`) are trained by the query loss of both transfer learners over episodes. A held-out
source domain, which never plays a training target, stops the training early and gives the card: the gain over
target_only per number of shots.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.card import make_card
from learning.config import MetaTrainOptions, Similarity
from learning.episodes import EpisodeBatch
from learning.errors import InvalidData
from learning.grafts import Graft
from learning.initialisation import init_outputs
from learning.metric import metric_outputs
from learning.parameters import TransferParameters, default_parameters
from learning.projection import cross_fitted, initial_projection
from learning.sources import SourceBank, build_bank
from learning.splits import HeldOutPart, Split, split_after_graft, split_sources
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
    """What adaptation needs: the feature space, the learned parameters, and what they are worth (`card`).

    `featuriser` reads features under `graft`; None: the rootstock's own. `source_grafts` are the sources' own, by name.
    """

    modality: Modality
    task: Task
    encoder: str
    encoder_revision: str
    columns: dict[str, str]
    similarity: Similarity
    featuriser: FittedFeaturiser
    parameters: TransferParameters
    card: dict[str, Any]
    graft: Graft | None = None
    source_grafts: Mapping[str, Graft] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class HonestSources:
    """The sources as a new domain will be seen: under a graft that never saw `held_out` (see `learning.grafting`).

    `alone` reads the held-out rows by the rootstock: what transferring, the graft included, is compared with.
    """

    domains: Sequence[Domain]
    featuriser: Featuriser
    held_out: HeldOutPart
    alone: Featuriser


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """`loss` is the mean query loss of the step's episodes; `held_out` that of the validation episodes, if seen."""

    step: int
    loss: float
    held_out: float | None


def episode_loss(
    parameters: TransferParameters, projection_DPF: Tensor, batch: EpisodeBatch, similarity: Similarity
) -> Tensor:
    """Mean query loss of both transfer learners: cross-entropy, or squared error in support deviations (Huber).

    Each episode sees the projection that was fitted without its target domain.
    """
    parameters = replace(parameters, projection_PF=projection_DPF[batch.domain_E])
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


def train_steps(
    parameters: TransferParameters,
    projection_DPF: Tensor,
    split: Split,
    options: MetaTrainOptions,
    generator: torch.Generator,
) -> Iterator[tuple[StepReport, TransferParameters]]:
    """Adam on the episode loss; after every step its report and the best parameters so far by held-out loss.

    The projection stays as it was fitted: with hundreds of rows per source its gradient mostly memorises them.
    """
    current = TransferParameters(
        **{
            name: tensor.float().clone().requires_grad_(name != "projection_PF")
            for name, tensor in parameters.tensors().items()
        }
    )
    learned = [tensor for tensor in current.tensors().values() if tensor.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=options.lr)
    validation = [
        split.held_out.draw(options.episodes_per_step, generator, all_sources=True) for _ in range(VALIDATION_BATCHES)
    ]

    def held_out_loss() -> float:
        with torch.no_grad():
            losses = [episode_loss(current, projection_DPF, batch, options.similarity) for batch in validation]
            return float(torch.stack(losses).mean())

    best, best_loss, stale = _detached(current), held_out_loss(), 0
    for step in range(1, options.steps + 1):
        optimiser.zero_grad()
        batch = split.train.draw(options.episodes_per_step, generator)
        loss = episode_loss(current, projection_DPF, batch, options.similarity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        held_out = None
        if step % CHECK_EVERY == 0 or step == options.steps:
            held_out = held_out_loss()
            stale = stale + 1 if held_out >= best_loss else 0
            if held_out < best_loss:
                best, best_loss = _detached(current), held_out
        yield StepReport(step=step, loss=float(loss.detach()), held_out=held_out), best
        if stale == PATIENCE:
            return


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
    graft: Graft | None = None,
    honest: HonestSources | None = None,
    source_grafts: Mapping[str, Graft] | None = None,
) -> MetaLearner:
    """Trains a meta-learner over `sources`. The same seed gives the same bytes on one CPU.

    With a `graft` the sources are encoded under it and `featuriser` reads that; how to transfer is then learned on
    `honest`, and the final space is fitted on `sources`.

    Raises `InvalidData` where no episode can be drawn (no two classes with two examples), `IncompatibleDomain` where
    the sources mix tasks.
    """
    if not sources:
        raise InvalidData("meta-training needs at least one source", hint="name datasets in `sources`")
    generator = torch.Generator().manual_seed(seed)
    progress(0.0, "preparing sources")
    bank, fitted = _bank(sources, featuriser, options, generator)
    if honest is None:
        seen, split = bank, split_sources(bank, options.episode, generator)
    else:
        seen = _honest_bank(honest, options, generator)
        split = split_after_graft(seen, honest.held_out, options.episode, generator)
    parameters, steps = _train(seen, split, options, generator, progress)
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
        parameters=_with_every_source(parameters, bank, options.projection_width),
        card=card | _training_summary(sources, steps),
        graft=graft,
        source_grafts=source_grafts or {},
    )


def _bank(
    sources: Sequence[Domain], featuriser: Featuriser, options: MetaTrainOptions, generator: torch.Generator
) -> tuple[SourceBank, FittedFeaturiser]:
    """The sources in a feature space that was fitted on all of them."""
    fitted = featuriser.fit([domain.data.inputs for domain in sources])
    return build_bank(sources, fitted, max_rows=options.max_rows_per_source, generator=generator), fitted


def _honest_bank(honest: HonestSources, options: MetaTrainOptions, generator: torch.Generator) -> SourceBank:
    part = honest.held_out.domain
    # A new target is in no feature space either.
    others = [d.data.inputs for d in honest.domains if part is None or d.name != part]
    fitted = honest.featuriser.fit(others)
    held = [d.data.inputs for d in honest.domains if part in {None, d.name}]
    rows = options.max_rows_per_source
    return build_bank(honest.domains, fitted, max_rows=rows, generator=generator, alone=honest.alone.fit(held))


def _train(
    bank: SourceBank, split: Split, options: MetaTrainOptions, generator: torch.Generator, progress: Progress
) -> tuple[TransferParameters, list[StepReport]]:
    """The best parameters by held-out loss, and a report of every step. Training is four fifths of the progress."""
    width = options.projection_width
    projection_DPF = cross_fitted(bank, split.metric_rows_N, width).float()
    parameters = default_parameters(bank.width, initial_projection(bank, split.metric_rows_N, width)).to(torch.float32)
    steps: list[StepReport] = []
    for report, best in train_steps(parameters, projection_DPF, split, options, generator):
        steps.append(report)
        parameters = best
        progress(0.8 * report.step / options.steps, "meta-training")
    return parameters, steps


def _with_every_source(parameters: TransferParameters, bank: SourceBank, width: int) -> TransferParameters:
    """The metric of all rows, which were kept apart only to train and to judge honestly."""
    everything_N = torch.ones(len(bank.features_NF), dtype=torch.bool)
    return replace(parameters, projection_PF=initial_projection(bank, everything_N, width)).to(torch.float32)


def _training_summary(sources: Sequence[Domain], steps: Sequence[StepReport]) -> dict[str, Any]:
    looks = [report.held_out for report in steps if report.held_out is not None]
    return {
        "sources": [{"dataset": s.name, "examples_used": len(s.data), "classes": len(s.data.classes)} for s in sources],
        "steps": len(steps),
        "loss_first": steps[0].loss if steps else None,
        "loss_last": steps[-1].loss if steps else None,
        "held_out_loss": min(looks) if looks else None,
    }
