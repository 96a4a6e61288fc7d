"""Ways to fit a base learner to one support set by transferring to it: from weighted sources, or from a generated head.

A new strategy is a class here, a dataclass in `learning.config` and a line in `make_candidate`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.base_learner import Pipeline
from learning.candidates import Candidate, FittedCandidate, TargetOnly
from learning.config import AutoOptions, InitOptions, MetricOptions, StrategyOptions, TargetOnlyOptions
from learning.context import SourceUse, TransferContext
from learning.encoders.tabular import FittedQuantileFeaturiser
from learning.errors import InvalidOptions
from learning.featurisers import FittedCentring
from learning.heads import LinearHead, fit_ridge, ridge_path
from learning.initialisation import fine_tune, generate
from learning.metric import WeightedSources, weigh_sources
from learning.parameters import embed
from learning.sources import BankTask, LabelScale, bank_task
from learning.stacking import stack_on
from learning.statistics import RidgeProblem
from learning.support_head import RIDGE_GRID, choose_regularisation, fit_head, in_label_units, support_targets
from learning.types import Featuriser, LabelledSet

STRENGTH_GRID = (0.01, 0.05, 0.25, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """Source examples weighted by similarity and label agreement, then one head on weighted source and target.

    Where no source label is a target label, only the learned metric transfers: the head is fitted on the support in the
    metric's coordinates. A table's head is averaged with a kernel and a forest on the same weighted rows, as in
    `TargetOnly`, unless its regularisation is asked for by name.
    """

    context: TransferContext
    options: MetricOptions
    seed: int = 0
    name: str = "metric"
    stacked: bool = False

    def tuned(self, support: LabelledSet) -> "Metric":
        here = replace(self, context=self.context.around(support))
        options, stacked = here._tuned_options(support), _is_stacked(self.context, self.options)  # noqa: SLF001 - itself
        return replace(self, options=options, stacked=stacked)

    def _tuned_options(self, support: LabelledSet) -> MetricOptions:
        features_SF, found = self._task(support)
        if not found.task.has_usable_sources:
            strength = choose_regularisation(self._embed(features_SF), support, self._support_options(), self.seed)
            return replace(self.options, regularisation=strength)
        targets_ST, fits = found.task.support_targets_EST[0], []
        rows_NF, all_targets_NT = self._rows(found)
        for source_strength in self._strengths():
            weighted = self._weigh(found, source_strength)
            grid = self._regularisations(float(weighted.regularisation_E))
            for regularisation, fit in ridge_path(rows_NF, all_targets_NT, _with_support(weighted, found), grid):
                error = float((fit.held_out_ST[: len(support)] - targets_ST).square().mean())
                fits.append((error, source_strength, regularisation))
        _, source_strength, regularisation = min(fits, key=lambda fit: fit[0])
        return replace(self.options, source_strength=source_strength, regularisation=regularisation)

    def fit(self, support: LabelledSet) -> FittedCandidate:
        return replace(self, context=self.context.around(support))._fit(support)  # noqa: SLF001 - itself

    def _fit(self, support: LabelledSet) -> FittedCandidate:
        features_SF, found = self._task(support)
        if not found.task.has_usable_sources:
            head = fit_head(self._embed(features_SF), support, self._support_options(), self.seed)
            return FittedCandidate(pipeline=_pipeline(self.context, head))
        weighted = self._weigh(found, self.options.source_strength)
        rows_NF, all_targets_NT = self._rows(found)
        regularisation = self.options.regularisation or float(weighted.regularisation_E)
        head = fit_ridge(
            rows_NF, all_targets_NT, regularisation=regularisation, weights_S=_with_support(weighted, found)
        ).head
        if support.classes:
            head = _scaled(head, float(weighted.scale_E))
        _, scale = support_targets(support)
        use = _source_use(self.context, found, weighted.weights_EM[0].detach())
        if self.stacked:
            return FittedCandidate(
                pipeline=_stacked(self.context, found, weighted, head, scale, self.seed), sources=use
            )
        return FittedCandidate(
            pipeline=_pipeline(self.context, in_label_units(head, scale)),
            sources=use,
            problem=RidgeProblem(
                features_NF=rows_NF,
                targets_NT=all_targets_NT * scale.deviation + scale.mean,
                weights_N=_with_support(weighted, found),
                n_support=len(support),
                regularisation=regularisation,
                output_scale=float(weighted.scale_E) if support.classes else 1.0,
            ),
        )

    def _task(self, support: LabelledSet) -> tuple[Tensor, BankTask]:
        features_SF = self.context.featuriser.transform(support.inputs).double()
        targets_ST, scale = support_targets(support)
        return features_SF, bank_task(self.context.bank, features_SF, targets_ST, support.classes, scale)

    def _embed(self, features: Tensor) -> Tensor:
        return embed(self.context.parameters, features, self.context.similarity)

    def _rows(self, found: BankTask) -> tuple[Tensor, Tensor]:
        """Support rows, then source rows: embedded features and targets."""
        features_NF = torch.cat([found.task.support_ESF[0], found.task.source_EMF[0]])
        targets_NT = torch.cat([found.task.support_targets_EST[0], found.task.source_targets_EMT[0]])
        return self._embed(features_NF), targets_NT

    def _weigh(self, found: BankTask, strength: float | None) -> WeightedSources:
        return weigh_sources(
            self.context.parameters,
            found.task,
            similarity=self.context.similarity,
            selection=self.options.selection,
            top_k=self.options.top_k,
            strength=strength,
        )

    def _support_options(self) -> TargetOnlyOptions:
        return TargetOnlyOptions(regularisation=self.options.regularisation)

    def _strengths(self) -> tuple[float | None, ...]:
        if self.options.source_strength is not None or self.context.learned:
            return (self.options.source_strength,)
        return STRENGTH_GRID

    def _regularisations(self, generated: float) -> tuple[float, ...]:
        if self.options.regularisation is not None:
            return (self.options.regularisation,)
        return (generated,) if self.context.learned else RIDGE_GRID


def _with_support(weighted: WeightedSources, found: BankTask) -> Tensor:
    """(S + M,) row weights: 1 for the support, then the sources'."""
    n_support = found.task.support_ESF.shape[1]
    return torch.cat([torch.ones(n_support, dtype=torch.float64), weighted.weights_EM[0].detach()])


def _source_use(context: TransferContext, found: BankTask, weights_M: Tensor) -> SourceUse:
    return SourceUse(
        bank_row_M=found.bank_row_M, weights_M=weights_M, domain_weights_D=_by_domain(context, found, weights_M)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Init:
    """A generated head, fine-tuned on the support.

    A table's is averaged with a kernel and a forest on the source rows beside it, as `Metric`'s.
    """

    context: TransferContext
    options: InitOptions
    seed: int = 0
    name: str = "init"
    stacked: bool = False

    def tuned(self, support: LabelledSet) -> "Init":  # noqa: ARG002 - all else is generated or given
        return replace(self, stacked=_is_stacked(self.context, self.options))

    def wearing(self, graft: str) -> "Init":
        """The same candidate reading the target's features under another graft; the domains' heads stay as they are."""
        featuriser = self.context.featuriser
        if isinstance(featuriser, FittedCentring):
            featuriser = replace(featuriser, graft=graft)
        return replace(self, context=replace(self.context, featuriser=featuriser))

    def fit(self, support: LabelledSet) -> FittedCandidate:
        return replace(self, context=self.context.around(support))._fit(support)  # noqa: SLF001 - itself

    def _fit(self, support: LabelledSet) -> FittedCandidate:
        parameters, similarity = self.context.parameters, self.context.similarity
        features_SF = self.context.featuriser.transform(support.inputs).double()
        targets_ST, scale = support_targets(support)
        found = bank_task(self.context.bank, features_SF, targets_ST, support.classes, scale)
        init = generate(parameters, found.task, similarity=similarity)
        rate, pull = self.options.fine_tune_lr, self.options.regularisation
        head_FT = fine_tune(
            init, embed(parameters, found.task.support_ESF, similarity), found.task.support_targets_EST,
            steps=self.options.fine_tune_steps, classification=found.task.classification,
            step_E=None if rate is None else torch.tensor([rate], dtype=torch.float64),
            regularisation_E=None if pull is None else torch.tensor([pull], dtype=torch.float64),
        )[0]  # fmt: skip
        head = LinearHead(weight_TF=head_FT[:-1].T.contiguous(), bias_T=head_FT[-1])
        nothing = torch.zeros(0, dtype=torch.float64)
        use = SourceUse(
            bank_row_M=nothing.long(), weights_M=nothing, domain_weights_D=init.domain_weights_ED[0].detach()
        )
        if self.stacked and found.task.has_usable_sources:
            weighted = weigh_sources(parameters, found.task, similarity=similarity)
            pipeline = _stacked(self.context, found, weighted, head, scale, self.seed)
        else:
            pipeline = _pipeline(self.context, in_label_units(head, scale))
        return FittedCandidate(pipeline=pipeline, sources=use if found.task.known_ED.any() else None)


def _is_stacked(context: TransferContext, options: MetricOptions | InitOptions) -> bool:
    return isinstance(context.featuriser, FittedQuantileFeaturiser) and options.regularisation is None


def _stacked(
    context: TransferContext, found: BankTask, weighted: WeightedSources, head: LinearHead, scale: LabelScale, seed: int
) -> Pipeline:
    """`head` averaged with a kernel and a forest on support and sources.

    These see a source row as often as its weight says relative to the other sources'. How much all sources count
    together is the linear head's to say.
    """
    table, parameters, task = context.featuriser, context.parameters, found.task
    assert isinstance(table, FittedQuantileFeaturiser)  # noqa: S101 - see `_is_stacked`
    weights_M = weighted.weights_EM[0].detach()
    relative_M = weights_M / weights_M[weights_M > 0].mean()
    stack, averaged = stack_on(
        table, head, torch.cat([task.support_targets_EST[0], task.source_targets_EMT[0]]),
        torch.cat([task.support_ESF[0], task.source_EMF[0]]).float(),
        torch.cat([torch.ones(task.support_ESF.shape[1], dtype=torch.float64), relative_M]),
        classification=task.classification, seed=seed,
    )  # fmt: skip
    # The metric does not look at the members' answers.
    padding = torch.zeros(len(parameters.projection_PF), stack.width - table.width, dtype=torch.float64)
    parameters = replace(parameters, projection_PF=torch.cat([parameters.projection_PF, padding], dim=1))
    return Pipeline(
        featuriser=stack, parameters=parameters, similarity=context.similarity, head=in_label_units(averaged, scale)
    )


def _pipeline(context: TransferContext, head: LinearHead) -> Pipeline:
    return Pipeline(
        featuriser=context.featuriser, parameters=context.parameters, similarity=context.similarity, head=head
    )


def _scaled(head: LinearHead, scale: float) -> LinearHead:
    return LinearHead(weight_TF=head.weight_TF * scale, bias_T=head.bias_T * scale)


def _by_domain(context: TransferContext, found: BankTask, weights_M: Tensor) -> Tensor:
    """(D,) each domain's share of the total source weight."""
    assert context.bank is not None  # noqa: S101 - there are usable sources
    total_D = torch.zeros(len(context.bank.names), dtype=torch.float64)
    total_D = total_D.index_add(0, found.task.source_domain_EM[0], weights_M)
    return total_D / total_D.sum().clamp_min(1e-12)


def make_candidate(
    name: str, options: StrategyOptions, *, featuriser: Featuriser, context: TransferContext | None, seed: int
) -> Candidate:
    """The candidate `name`, with `options` where they are its own; auto's give target_only its head.

    Raises `InvalidOptions` where a transfer strategy has neither sources nor a meta-learner.
    """
    if name == "target_only":
        head = options.head if isinstance(options, AutoOptions) else "logistic"
        own = options if isinstance(options, TargetOnlyOptions) else TargetOnlyOptions(head=head)
        return TargetOnly(featuriser=featuriser, options=own, seed=seed)
    if context is None:
        raise InvalidOptions(f"strategy {name} has nothing to transfer", hint="name sources or a meta-learner")
    if name == "metric":
        metric = options if isinstance(options, MetricOptions) else MetricOptions()
        return Metric(context=context, options=metric, seed=seed)
    return Init(context=context, options=options if isinstance(options, InitOptions) else InitOptions(), seed=seed)
