"""Adaptation: fit the candidates, guard against negative transfer, choose, calibrate, report.

The support is first put into a canonical order that depends on its inputs alone, and classes are numbered by first
appearance in it. So neither the order of the rows nor the names of the classes change what is learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from learning import report
from learning.assembly import assemble, refuse_useless
from learning.base_learner import BaseLearner
from learning.candidates import Candidate
from learning.canonical import canonical
from learning.choice import Choice, graft_report, shares_in
from learning.class_names import ClassNames, Named
from learning.config import AutoOptions, GraftTuningOptions, StrategyOptions
from learning.context import TransferContext, can_read, make_context
from learning.errors import IncompatibleDomain, InvalidData, NonFiniteFeatures
from learning.expectation import expectation, expected_gain
from learning.folds import plan_folds
from learning.graft_tuning import TargetEncoding, TunedGraft, mixed_start, tune_graft
from learning.meta import MetaLearner
from learning.selection import hold_contest, select
from learning.transfer_candidates import Init, make_candidate
from learning.types import Domain, Features, Featuriser, LabelledSet, Modality, Progress
from learning.usefulness import usefulness_warnings


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """The base learner of the target, and the report of how it came about (JSON-able)."""

    learner: BaseLearner
    report: dict[str, Any]


def adapt(
    *,
    target: Domain,
    sources: Sequence[Domain],
    featuriser: Featuriser,
    modality: Modality,
    encoder: str,
    encoder_revision: str,
    columns: dict[str, str],
    strategy: str,
    options: StrategyOptions,
    meta_learner: MetaLearner | None,
    seed: int,
    progress: Progress,
    encoding: TargetEncoding | None = None,
    class_names: ClassNames | None = None,
) -> Adaptation:
    """Adapts to `target`, transferring from `sources` and `meta_learner` as `strategy` says.

    `featuriser` reads what the rootstock makes of the target. A meta-learner with a graft reads sources and target
    under that graft, so their features must hold it (`Features.grafted`).

    `class_names` are the target's, encoded like its rows: where no source names the classes, transfer candidates learn
    from the names too. With `encoding` the graft itself may be tuned on the target, where the options ask for it and
    held-out rows pay.

    The same arguments give the same bytes on one CPU.

    Raises:
        InvalidData: fewer than two examples or fewer than two classes.
        InvalidOptions: a transfer strategy without anything to transfer.
        IncompatibleDomain: sources or meta-learner of another task.
        NonFiniteFeatures: a row of the target or of a source is not finite.
        UselessModel: the fitted model is clearly worse than always answering the majority (or the mean).
        NonFiniteModel: its numbers, or its held-out answers, are not finite.
        Cancelled: whatever `progress` raises passes through.
    """
    _check(target, sources, meta_learner)
    support, order_S = canonical(target.data)
    progress(0.0, "preparing sources")
    job = _Job.prepared(
        support=support, order_S=order_S, sources=sources, featuriser=featuriser, strategy=strategy, options=options,
        meta_learner=meta_learner, seed=seed, progress=progress, encoding=encoding, class_names=class_names,
    )  # fmt: skip
    made_of = _MadeOf(modality=modality, encoder=encoder, encoder_revision=encoder_revision, columns=columns)
    return job.finished(job.choice(), made_of)


class _MadeOf(TypedDict):
    """What the learner's inputs are read by."""

    modality: Modality
    encoder: str
    encoder_revision: str
    columns: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """One adaptation: what was asked for, the support in canonical order, and what is known besides it.

    `generator` is drawn from in the order in which the methods are called.
    """

    support: LabelledSet
    order_S: Tensor
    sources: Sequence[Domain]
    featuriser: Featuriser
    strategy: str
    options: StrategyOptions
    meta_learner: MetaLearner | None
    seed: int
    progress: Progress
    encoding: TargetEncoding | None
    class_names: ClassNames | None
    context: TransferContext | None
    generator: torch.Generator
    card: Mapping[str, Any] | None

    @classmethod
    def prepared(
        cls, *, support: LabelledSet, sources: Sequence[Domain], featuriser: Featuriser, options: StrategyOptions,
        meta_learner: MetaLearner | None, seed: int, **asked: Any,
    ) -> "_Job":  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        context = make_context(sources, featuriser, options, meta_learner, generator, target=support.inputs)
        if isinstance(options, AutoOptions) and not can_read(context, support):
            context = None
        card = expectation(options, context, support, meta_learner, seed)
        return cls(
            support=support, sources=sources, featuriser=featuriser, options=options, meta_learner=meta_learner,
            seed=seed, context=context, generator=generator, card=card, **asked,
        )  # fmt: skip

    def choice(self) -> Choice:
        """The contest of all candidates, who won it, and whether tuning its graft pays."""
        names = _candidate_names(self.strategy, self.options, self.context)
        candidates = {name: self._candidate(name).tuned(self.support) for name in names}
        fold_S = plan_folds(self.support, self.options.max_folds, self.generator)
        contest = hold_contest(candidates, self.support, fold_S, self.context, self.card, self.progress)
        chosen = self.strategy
        if isinstance(self.options, AutoOptions):
            chosen, contest = select(contest, self.support, self.options.guard_standard_errors)
        tuned = self._tuned(candidates.get("init"), contest.candidates[chosen], chosen)
        return Choice(name=chosen, contest=contest, tuned=tuned)

    def _candidate(self, name: str) -> Candidate:
        context, classes = self.context, self.support.classes
        candidate = make_candidate(
            name, self.options, featuriser=self.featuriser, context=context, seed=self.seed
        )  # fmt: skip
        if name == "target_only" or context is None or self.class_names is None or not classes:
            return candidate
        if context.bank is not None and context.bank.shared_with(classes):
            return candidate
        return Named(candidate=candidate, names=self.class_names, graft=context.featuriser.graft)

    def _tuned(self, init: Candidate | None, replaced: Candidate, chosen: str) -> TunedGraft | None:
        """The graft tuned on the target, where that was asked for, can be done and beats the chosen candidate."""
        options = self.options
        if self.encoding is None or self.meta_learner is None or chosen == "target_only" or not isinstance(init, Init):
            return None
        if not isinstance(options, GraftTuningOptions) or options.graft_steps == 0:
            return None
        use = init.fit(self.support).sources
        names = () if init.context.bank is None else init.context.bank.names
        weights = dict(zip(names, use.domain_weights_D.tolist(), strict=True)) if use else {}
        return tune_graft(
            init, replaced, self.support, self.encoding.select(self.order_S.tolist()),
            mixed_start(self.meta_learner, weights), steps=options.graft_steps, lr=options.graft_lr,
            generator=self.generator, progress=lambda done: self.progress(0.9 + 0.05 * done, "tuning the graft"),
        )  # fmt: skip

    def finished(self, choice: Choice, made_of: _MadeOf) -> Adaptation:
        """The chosen candidate fitted on the whole support, calibrated, and refused where it is useless."""
        self.progress(0.95, "fitting")
        tuned, scored = choice.tuned, choice.scored
        support = self.support if tuned is None else tuned.support
        own = scored[choice.strategy]
        fitted = choice.candidate.fit(support)
        learner = assemble(
            fitted, own, support, self.order_S, self.options.coverage, strategy=choice.strategy, **made_of
        )  # fmt: skip
        if self.meta_learner is not None and fitted.pipeline.featuriser.graft:
            learner = replace(learner, graft=tuned.graft if tuned is not None else self.meta_learner.graft)
        warnings = usefulness_warnings(own.held_out, own.useful_S, support)
        refuse_useless(learner, own, warnings)
        warnings += report.source_warnings(choice.contest.misled)
        self.progress(1.0, "fitted")
        told = report.make_report(
            chosen=choice.strategy, scored=scored, gains=choice.contest.gains, support=support, context=self.context,
            fitted=fitted, learner=learner, reason=choice.reason(self.options), warnings=warnings,
            sources=self.sources,
        )  # fmt: skip
        more = {
            "graft": graft_report(learner, tuned),
            "blend": shares_in(choice.candidate),
            "expected_gain": expected_gain(self.card, support),
        }
        return Adaptation(learner=learner, report=told | more)


def _check(target: Domain, sources: Sequence[Domain], meta_learner: MetaLearner | None) -> None:
    data = target.data
    if len(data) < 2:
        raise InvalidData(f"the dataset has {len(data)} example(s)", hint="label at least two examples")
    if data.task == "classification" and len(data.labels_N.unique()) < 2:
        raise InvalidData("the dataset has a single class", hint="add examples of at least one other class")
    for domain in (target, *sources):
        _check_finite(domain)
    for source in sources:
        if source.data.task != data.task:
            raise IncompatibleDomain(
                f"source {source.name} is a {source.data.task} and the target a {data.task}",
                hint="use sources of the target's task",
            )
    if meta_learner is not None and meta_learner.task != data.task:
        raise IncompatibleDomain(f"the meta-learner is for {meta_learner.task}, the target is a {data.task}")


def _check_finite(domain: Domain) -> None:
    """Tables are checked cell by cell where they are read."""
    inputs = domain.data.inputs
    if not isinstance(inputs, Features):
        return
    for matrix_NF in (inputs.matrix_NF, *inputs.grafted.values()):
        bad_N = ~torch.isfinite(matrix_NF).all(1)
        if bool(bad_N.any()):
            row = int(bad_N.nonzero()[0]) + 1
            raise NonFiniteFeatures(f"row {row} of {domain.name} has no finite features", hint="leave that row out")


def _candidate_names(strategy: str, options: StrategyOptions, context: TransferContext | None) -> list[str]:
    """target_only is always scored: the report compares every strategy with not transferring."""
    if isinstance(options, AutoOptions):
        return [name for name in options.candidates if name == "target_only" or context is not None]
    return list(dict.fromkeys(["target_only", strategy]))
