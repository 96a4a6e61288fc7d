"""The report of a version: what was tried, what was chosen and why, and how far to trust it. Plain JSON-able values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from learning.calibration import expected_calibration_error, prediction_sets
from learning.candidates import FittedCandidate
from learning.context import TransferContext
from learning.guard import DOUBT, Gain
from learning.metric import effective_sample_size
from learning.sources import SourceBank
from learning.support_head import support_targets
from learning.transferability import MEASURE, SourceScore, rank_sources
from learning.types import Domain, LabelledSet, Table
from learning.usefulness import accuracy, explained, make_warning

if TYPE_CHECKING:
    from learning.assembly import Scored
    from learning.base_learner import BaseLearner

TOP_EXAMPLES = 5


def _score(scored: Scored, support: LabelledSet) -> tuple[float | None, list[float]]:
    rows_S = scored.useful_S
    measure = accuracy if support.classes else explained
    return measure(scored.held_out.outputs_ST[rows_S], support.labels_N[rows_S])


def _candidates(scored: Mapping[str, Scored], gains: Mapping[str, Gain], support: LabelledSet) -> list[dict[str, Any]]:
    entries = []
    for name, candidate in scored.items():
        value, interval = _score(candidate, support)
        note = "scored on the target's own held-out examples"
        if value is None:
            note = "no example could be held out without losing its class"
        elif name in gains and gains[name].contradicted:
            note = "the target's held-out examples speak against it"
        entry: dict[str, Any] = {
            "strategy": name,
            "score": value,
            "interval": interval,
            "n_folds": candidate.held_out.n_folds,
            "note": note,
        }
        if name in gains:
            entry["gain"] = {"value": gains[name].mean, "interval": list(gains[name].interval)}
        entries.append(entry)
    return entries


def _metrics(scored: Scored, support: LabelledSet) -> dict[str, Any]:
    value, interval = _score(scored, support)
    rows_S = scored.useful_S
    outputs_ST, labels_S = scored.held_out.outputs_ST[rows_S], support.labels_N[rows_S]
    if not support.classes:
        error_S = (outputs_ST[:, 0] - labels_S.double()).abs()
        return {
            "rmse": float(error_S.square().mean().sqrt()),
            "mae": float(error_S.mean()),
            "r2": value,
            "interval": interval,
            "n": len(labels_S),
        }
    n_classes = len(support.classes)
    order = sorted(range(n_classes), key=lambda c: support.classes[c])
    cells = torch.bincount(labels_S * n_classes + outputs_ST.argmax(1), minlength=n_classes**2)
    matrix = cells.reshape(n_classes, n_classes)[order][:, order]
    confusion = {"labels": [support.classes[c] for c in order], "matrix": matrix.tolist()}
    return {"accuracy": value, "interval": interval, "n": len(labels_S), "confusion": confusion}


def _calibration(scored: Scored, support: LabelledSet, learner: BaseLearner) -> dict[str, Any]:
    """On held-out rows; the temperature was fitted on the same rows, so small supports look better than they are."""
    rows_S = scored.useful_S
    labels_S = support.labels_N[rows_S]
    outputs_ST = scored.held_out.outputs_ST[rows_S]
    if not support.classes:
        inside_S = (outputs_ST[:, 0] - labels_S.double()).abs() <= learner.interval_half_width + 1e-9
        half = learner.interval_half_width
        return {
            "coverage": float(inside_S.double().mean()),
            "interval_half_width": half if math.isfinite(half) else None,
        }
    probs_SC = (outputs_ST / scored.temperature).softmax(1)
    sets_SC = prediction_sets(probs_SC, learner.set_threshold)
    known = len(labels_S) > 0
    return {
        "ece": expected_calibration_error(probs_SC, labels_S) if known else None,
        "temperature": scored.temperature,
        "coverage": float(sets_SC.gather(1, labels_S[:, None]).double().mean()) if known else None,
        "set_size": float(sets_SC.double().sum(1).mean()) if known else None,
    }


def _ranking(bank: SourceBank, context: TransferContext, support: LabelledSet) -> tuple[SourceScore, ...]:
    features_SF = context.featuriser.transform(support.inputs)
    return rank_sources(bank, features_SF, *support_targets(support), support.classes)


def _sources(
    context: TransferContext | None, fitted: FittedCandidate, sources: Sequence[Domain], support: LabelledSet
) -> list[dict[str, Any]]:
    """Every source as given, with its place in the ranking and what the chosen candidate made of it."""
    if context is None or context.bank is None:
        return []
    bank, use = context.bank, fitted.sources
    entries = []
    for d, (source, place) in enumerate(zip(sources, _ranking(bank, context, support), strict=True)):
        entry: dict[str, Any] = {
            "dataset": source.name,
            "rank": place.rank,
            "transferability": {"score": place.score, "measure": MEASURE},
            "distance": place.distance,
            "weight": 0.0,
            "effective_sample_size": 0.0,
            "top_examples": [],
        }
        if use is not None:
            entry["weight"] = float(use.domain_weights_D[d])
            mine_M = bank.domain_N[use.bank_row_M] == d
            weights_M, rows_M = use.weights_M[mine_M], bank.row_N[use.bank_row_M[mine_M]]
            entry["effective_sample_size"] = effective_sample_size(weights_M)
            top = weights_M.topk(min(TOP_EXAMPLES, len(weights_M))).indices
            entry["top_examples"] = [{"example": int(rows_M[i]), "weight": float(weights_M[i])} for i in top.tolist()]
        entries.append(entry)
    return entries


def _label_case(context: TransferContext | None, support: LabelledSet) -> str:
    """How the sources' labels relate to the target's."""
    if context is None or context.bank is None:
        return "no sources"
    if not support.classes:
        return "regression"
    shared = context.bank.shared_with(support.classes)
    if not shared:
        return "disjoint"
    return "shared" if shared == set(support.classes) else "partly shared"


def source_warnings(misled: float | None) -> list[dict[str, Any]]:
    """Whether the sources, which mislead with probability `misled`, are in doubt."""
    if misled is None or misled < DOUBT:
        return []
    message = f"The sources' labels seem to mean something else here (probability {misled:.2f}): check them."
    return [make_warning("misleading_sources", message)]


def data_warnings(support: LabelledSet, context: TransferContext | None) -> list[dict[str, Any]]:
    """What about the data itself should make a reader careful."""
    found = []
    keys = support.inputs.keys()
    if len(set(keys)) < len(keys):
        found.append(make_warning("duplicates", f"{len(keys) - len(set(keys))} example(s) repeat another one."))
    if support.classes:
        counts = torch.bincount(support.labels_N, minlength=len(support.classes)).tolist()
        lone = sorted(name for name, count in zip(support.classes, counts, strict=True) if count == 1)
        if lone:
            found.append(
                make_warning("one_shot_classes", f"{len(lone)} class(es) have one example: {', '.join(lone[:5])}.")
            )
        if max(counts) > 10 * min(counts):
            found.append(
                make_warning(
                    "class_imbalance", f"The largest class has {max(counts)} examples, the smallest {min(counts)}."
                )
            )
    alignment = getattr(context.featuriser, "alignment", []) if context else []
    found += [make_warning("column_alignment", note) for note in alignment]
    if context and isinstance(support.inputs, Table):
        read = {column.name for column in getattr(context.featuriser, "columns", ())}
        unread = sorted({*support.inputs.numeric, *support.inputs.categorical} - read)
        if unread:
            message = f"No source has {', '.join(unread[:10])}: only target_only can use it."
            found.append(make_warning("column_alignment", message))
    if _label_case(context, support) == "disjoint":
        found.append(
            make_warning(
                "disjoint_labels", "Sources name under half of the target classes: they only shape the metric."
            )
        )
    return found


def _unread_sources(context: TransferContext | None, sources: Sequence[Domain]) -> list[dict[str, Any]]:
    if context is not None or not sources:
        return []
    return [
        make_warning("no_common_columns", "The sources share no column with the target: nothing could be transferred.")
    ]


def make_report(
    *,
    chosen: str,
    scored: Mapping[str, Scored],
    gains: Mapping[str, Gain],
    support: LabelledSet,
    context: TransferContext | None,
    fitted: FittedCandidate,
    learner: BaseLearner,
    reason: str,
    warnings: Sequence[dict[str, Any]],
    sources: Sequence[Domain],
) -> dict[str, Any]:
    """The report as the REST contract shapes it; `timing` is added by whoever measured it."""
    gain = gains.get(chosen)
    return {
        "strategy": chosen,
        "candidates": _candidates(scored, gains, support),
        "transfer_gain": {
            "value": gain.mean if gain else 0.0,
            "interval": list(gain.interval) if gain else [0.0, 0.0],
        },
        "chosen_because": reason,
        "metrics": _metrics(scored[chosen], support),
        "calibration": _calibration(scored[chosen], support, learner),
        "sources": _sources(context, fitted, sources, support),
        "labels": _label_case(context, support),
        "warnings": [*warnings, *data_warnings(support, context), *_unread_sources(context, sources)],
    }
