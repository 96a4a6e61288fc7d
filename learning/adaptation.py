"""Adaptation: fit the candidates, guard against negative transfer, choose, calibrate, report.

The support is first put into a canonical order that depends on its inputs alone, and classes are numbered by first
appearance in it. So neither the order of the rows nor the names of the classes change what is learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learning import report
from learning.assembly import Scored, assemble, refuse_useless
from learning.base_learner import BaseLearner
from learning.blend import Blend
from learning.calibration import held_out_temperature
from learning.candidates import Candidate
from learning.canonical import canonical
from learning.card import card_of_sources
from learning.class_names import ClassNames, Named
from learning.config import AutoOptions, GraftTuningOptions, StrategyOptions
from learning.context import TransferContext, can_read, make_context
from learning.errors import IncompatibleDomain, InvalidData
from learning.folds import HeldOut, plan_folds
from learning.graft_tuning import TargetEncoding, TunedGraft, mixed_start, tune_graft
from learning.guard import card_prior, describe_choice
from learning.meta import MetaLearner
from learning.selection import Contest, hold_contest, is_rescue, select
from learning.transfer_candidates import Init, make_candidate
from learning.types import Domain, Featuriser, LabelledSet, Modality, Progress


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
        UselessModel: the fitted model is not finite, or clearly worse than always answering the majority.
        Cancelled: whatever `progress` raises passes through.
    """
    _check(target, sources, meta_learner)
    support, order_S = canonical(target.data)
    generator = torch.Generator().manual_seed(seed)
    progress(0.0, "preparing sources")
    context = make_context(sources, featuriser, options, meta_learner, generator, target=support.inputs)
    if isinstance(options, AutoOptions) and not can_read(context, support):
        context = None
    names = _candidate_names(strategy, options, context)
    candidates = {
        name: _candidate(name, options, featuriser, context, seed, class_names, support).tuned(support)
        for name in names
    }
    fold_S = plan_folds(support, options.max_folds, generator)
    card = _card(options, context, support, meta_learner, seed)
    contest = hold_contest(candidates, support, fold_S, context, card, progress)
    chosen = strategy
    if isinstance(options, AutoOptions):
        chosen, contest = select(contest, support, options.guard_standard_errors)
    tuned = _tuned(
        candidates.get("init"), contest, chosen, support, encoding, order_S, meta_learner, options, generator, progress
    )
    reason = _reason(chosen, contest, names, options, tuned)
    final, scored = contest.candidates[chosen], dict(contest.scored)
    if tuned is not None:
        chosen, support, final, scored["init"] = "init", tuned.support, tuned.candidate, _score_tuned(tuned)
    progress(0.95, "fitting")
    fitted = final.fit(support)
    learner = assemble(
        fitted, scored[chosen], support, order_S, options.coverage,
        modality=modality, strategy=chosen, encoder=encoder, encoder_revision=encoder_revision, columns=columns,
    )  # fmt: skip
    if meta_learner is not None and fitted.pipeline.featuriser.graft:
        learner = replace(learner, graft=tuned.graft if tuned is not None else meta_learner.graft)
    warnings = report.usefulness_warnings(scored[chosen].held_out, scored[chosen].useful_S, support)
    refuse_useless(learner, warnings)
    progress(1.0, "fitted")
    return Adaptation(
        learner=learner,
        report=report.make_report(
            chosen=chosen, scored=scored, gains=contest.gains, support=support, context=context, fitted=fitted,
            learner=learner, reason=reason, warnings=warnings, sources=sources,
        )
        | {
            "graft": _graft_report(learner, tuned),
            "blend": _shares_in(final),
            "expected_gain": _expected_gain(card, meta_learner, support),
        },
    )  # fmt: skip


def _card(
    options: StrategyOptions, context: TransferContext | None, support: LabelledSet, meta_learner: MetaLearner | None,
    seed: int,
) -> Mapping[str, Any] | None:  # fmt: skip
    """The meta-learner's; of sources that name the target's classes, where `auto` has to judge them, their own."""
    if meta_learner is not None:
        return meta_learner.card
    if not isinstance(options, AutoOptions) or context is None or context.bank is None:
        return None
    if support.classes and not context.bank.shared_with(support.classes):
        return None
    return card_of_sources(
        context.bank, context.parameters, similarity=context.similarity, shots=support.shots,
        ways=len(support.classes), seed=seed,
    )  # fmt: skip


def _candidate(
    name: str, options: StrategyOptions, featuriser: Featuriser, context: TransferContext | None, seed: int,
    class_names: ClassNames | None, support: LabelledSet,
) -> Candidate:  # fmt: skip
    candidate = make_candidate(name, options, featuriser=featuriser, context=context, seed=seed)
    if name == "target_only" or context is None or class_names is None or not support.classes:
        return candidate
    if context.bank is not None and context.bank.shared_with(support.classes):
        return candidate
    return Named(candidate=candidate, names=class_names, graft=context.featuriser.graft)


def _tuned(
    init: Candidate | None, contest: Contest, chosen: str, support: LabelledSet, encoding: TargetEncoding | None,
    order_S: Tensor, meta_learner: MetaLearner | None, options: StrategyOptions, generator: torch.Generator,
    progress: Progress,
) -> TunedGraft | None:  # fmt: skip
    """The graft tuned on the target, where that was asked for, can be done and beats the chosen candidate."""
    if encoding is None or meta_learner is None or chosen == "target_only" or not isinstance(init, Init):
        return None
    if not isinstance(options, GraftTuningOptions) or options.graft_steps == 0:
        return None
    use = init.fit(support).sources
    names = () if init.context.bank is None else init.context.bank.names
    weights = dict(zip(names, use.domain_weights_D.tolist(), strict=True)) if use else {}
    return tune_graft(
        init, contest.candidates[chosen], support, encoding.select(order_S.tolist()),
        mixed_start(meta_learner, weights), steps=options.graft_steps, lr=options.graft_lr, generator=generator,
        progress=lambda done: progress(0.9 + 0.05 * done, "tuning the graft"),
    )  # fmt: skip


def _reason(
    chosen: str, contest: Contest, names: Sequence[str], options: StrategyOptions, tuned: TunedGraft | None
) -> str:
    reason = describe_choice(chosen, contest.gains, names)
    if isinstance(options, AutoOptions) and is_rescue(chosen, contest, options.guard_standard_errors):
        reason = f"target_only is worse than guessing, and the held-out examples do not speak against {chosen}."
    if (shares := _shares_in(contest.candidates[chosen])) is not None:
        others = " and ".join(name for name in shares if name != chosen)
        reason = f"{reason[:-1]}; its answers are averaged with those of {others}."
    if tuned is None:
        return reason
    return f"{reason} Tuning the graft on the target gained {tuned.gain.mean:+.3f} over {chosen} on held-out examples."


def _expected_gain(
    card: Mapping[str, Any] | None, meta_learner: MetaLearner | None, support: LabelledSet
) -> dict[str, Any] | None:
    """What was expected of each transfer learner before a held-out row was looked at, and who said so."""
    if card is None:
        return None
    gains = {name: card_prior(card, name, support.shots).mean for name in ("metric", "init")}
    return {"from": "meta_learner" if meta_learner is not None else "sources", **gains}


def _shares_in(candidate: Candidate) -> dict[str, float] | None:
    """How much each member of a blend counts; None of any other candidate."""
    if not isinstance(candidate, Blend):
        return None
    return {member.name: share for member, share in zip(candidate.members, candidate.shares, strict=True)}


def _graft_report(learner: BaseLearner, tuned: TunedGraft | None) -> dict[str, Any]:
    """What the encoder wears: nothing, the meta-learner's graft, or one tuned on the target."""
    numbers = 0 if learner.graft is None else learner.graft.n_numbers
    if tuned is None:
        return {"from": "rootstock" if learner.graft is None else "meta_learner", "numbers": numbers}
    gain = {"value": tuned.gain.mean, "interval": list(tuned.gain.interval)}
    return {"from": "target", "numbers": numbers, "steps": tuned.steps, "gain": gain}


def _score_tuned(tuned: TunedGraft) -> Scored:
    """The tuned graft's answers on the rows that were held out of it; nothing is known of the others."""
    support, held_S = tuned.support, tuned.held_S
    majority_S = held_S & (support.labels_N == torch.bincount(support.labels_N).argmax())
    answers = HeldOut(
        outputs_ST=tuned.outputs_ST, comparable_S=held_S, majority_S=majority_S,
        fold_S=torch.zeros(len(support), dtype=torch.int64), pipelines=(tuned.held_out,),
    )  # fmt: skip
    temperature = held_out_temperature(tuned.outputs_ST[held_S], support.labels_N[held_S])
    return Scored(held_out=answers, temperature=temperature, useful_S=held_S)


def _check(target: Domain, sources: Sequence[Domain], meta_learner: MetaLearner | None) -> None:
    data = target.data
    if len(data) < 2:
        raise InvalidData(f"the dataset has {len(data)} example(s)", hint="label at least two examples")
    if data.task == "classification" and len(data.labels_N.unique()) < 2:
        raise InvalidData("the dataset has a single class", hint="add examples of at least one other class")
    for source in sources:
        if source.data.task != data.task:
            raise IncompatibleDomain(
                f"source {source.name} is a {source.data.task} and the target a {data.task}",
                hint="use sources of the target's task",
            )
    if meta_learner is not None and meta_learner.task != data.task:
        raise IncompatibleDomain(f"the meta-learner is for {meta_learner.task}, the target is a {data.task}")


def _candidate_names(strategy: str, options: StrategyOptions, context: TransferContext | None) -> list[str]:
    """target_only is always scored: the report compares every strategy with not transferring."""
    if isinstance(options, AutoOptions):
        return [name for name in options.candidates if name == "target_only" or context is not None]
    return list(dict.fromkeys(["target_only", strategy]))
