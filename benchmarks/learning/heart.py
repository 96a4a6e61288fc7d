"""Heart disease at three hospitals: two are sources, the third the target with a few labelled patients.

The hospitals share their columns, but one records hardly any cholesterol, two hardly any of the later examinations, and
the share of ill patients differs between 36 and 75 %.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.learning.baselines.kmm import kmm
from benchmarks.learning.baselines.problem import Baseline, Problem
from benchmarks.learning.baselines.tabular import boosting, forest, linear
from benchmarks.learning.baselines.tradaboost import tradaboost
from benchmarks.learning.data import few
from benchmarks.learning.results import Bench, Goal, SuiteResult, at_least, mean_interval, row
from benchmarks.learning.tabular import adapt_table, in_order, learn_tables, numeric_table
from benchmarks.learning.transfer import meta_options
from learning.meta import MetaLearner
from learning.types import Domain, LabelledSet, labelled_set

HOSPITALS = ("cleveland", "hungary", "va")
SHOTS = (5, 20)
#: How far below the best peer of a target auto may stay.
SLACK = 0.005
OURS = ("auto", "target_only")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ward:
    """`rows_NF` NaN where missing; `ill_N` 0 or 1."""

    columns: tuple[str, ...]
    rows_NF: NDArray[np.float64]
    ill_N: NDArray[np.int64]

    def select(self, index_N: NDArray[np.int64]) -> "Ward":
        return Ward(columns=self.columns, rows_NF=self.rows_NF[index_N], ill_N=self.ill_N[index_N])

    def labelled(self) -> LabelledSet:
        labels = ["yes" if ill else "no" for ill in self.ill_N]
        return labelled_set(numeric_table(self.columns, self.rows_NF), labels, "classification")


def load(path: Path) -> Ward:
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file))
    return Ward(
        columns=tuple(header[:-1]),
        rows_NF=np.array([[float(value or "nan") for value in line[:-1]] for line in lines]),
        ill_N=np.array([line[-1] == "yes" for line in lines]).astype(np.int64),
    )


#: (Q,) a score that is higher for patients more likely ill.
Scorer = Callable[[Ward, Ward, Ward, int], NDArray[np.float64]]


def _fitted_on(which: str, fit: Callable[..., Any]) -> Scorer:
    """A peer on the target's rows, the sources' rows, or both pooled; each row counts the same."""

    def scores(support: Ward, sources: Ward, test: Ward, _seed: int) -> NDArray[np.float64]:
        train = {"target": support, "sources": sources, "pooled": _together([support, sources])}[which]
        model = _fitted(fit, sources) if which == "sources" else fit(train.rows_NF, train.ill_N)
        probs_Q: NDArray[np.float64] = model.predict_proba(test.rows_NF)[:, 1]
        return probs_Q

    return scores


@cache
def _fitted(fit: Callable[..., Any], sources: Ward) -> Any:
    """A model of the sources alone is the same for every seed."""
    return fit(sources.rows_NF, sources.ill_N)


def _weighted(baseline: Baseline) -> Scorer:
    """A peer that weights source rows, on columns standardised over all labelled rows, missing as 0."""

    def scores(support: Ward, sources: Ward, test: Ward, seed: int) -> NDArray[np.float64]:
        known_NF = np.concatenate([support.rows_NF, sources.rows_NF])
        mean_F, deviation_F = np.nanmean(known_NF, axis=0), np.nanstd(known_NF, axis=0)

        def features(ward: Ward) -> torch.Tensor:
            scaled_NF = np.nan_to_num((ward.rows_NF - mean_F) / deviation_F) / len(ward.columns) ** 0.5
            return torch.from_numpy(scaled_NF).float()

        problem = Problem(
            support_SF=features(support), support_labels_S=torch.from_numpy(support.ill_N),
            source_MF=features(sources), source_labels_M=torch.from_numpy(sources.ill_N), n_classes=2, seed=seed,
        )  # fmt: skip
        return baseline(problem, features(test))[:, 1].numpy()

    return scores


PEERS: dict[str, Scorer] = {
    "target logistic": _fitted_on("target", linear),
    "source logistic": _fitted_on("sources", linear),
    "pooled logistic": _fitted_on("pooled", linear),
    "pooled forest": _fitted_on("pooled", forest),
    "pooled boosting": _fitted_on("pooled", boosting),
    "kmm": _weighted(kmm),
    "tradaboost": _weighted(tradaboost),
}


def run(bench: Bench) -> SuiteResult:
    wards = {name: load(bench.data / "heart" / f"{name}.csv") for name in HOSPITALS}
    seeds = range(2 if bench.quick else 20)
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for target in HOSPITALS:
        sources = [Domain(name=name, data=wards[name].labelled()) for name in HOSPITALS if name != target]
        pooled = _together([wards[name] for name in HOSPITALS if name != target])
        learner = learn_tables(sources, meta_options(bench))
        for shots in SHOTS:
            runs = [_one_run(wards[target], pooled, sources, learner, shots, seed) for seed in seeds]
            found[target, shots] = {method: [r[method] for r in runs] for method in runs[0]}
    everything = {method: [v for each in found.values() for v in each[method]] for method in (*OURS, *PEERS)}
    rows = [
        row(f"{target}, {shots} per class", method, values)
        for (target, shots), methods in found.items()
        for method, values in methods.items()
    ]
    rows += [row("mean of all", method, values) for method, values in everything.items()]
    return SuiteResult(
        name="heart",
        protocol=f"two hospitals to the third, 5 and 20 labelled patients per class, {len(seeds)} seeds, tested on all "
        "other patients of the target; the meta-learner is trained on the two sources",
        unit="AUC",
        rows=rows,
        goals=_goals(found, everything),
    )


def _goals(found: dict[tuple[str, int], dict[str, list[float]]], everything: dict[str, list[float]]) -> list[Goal]:
    """Per target over both numbers of shots, and over all."""
    goals = []
    for target in HOSPITALS:
        pooled = {m: [v for shots in SHOTS for v in found[target, shots][m]] for m in ("auto", *PEERS)}
        goals.append(_beats(f"AUC at {target} against the best peer there - {SLACK}", pooled, SLACK))
    goals.append(_beats("mean AUC against the best peer's", everything, 0.0))
    return goals


def _beats(text: str, values: dict[str, list[float]], slack: float) -> Goal:
    best = max(PEERS, key=lambda method: float(np.mean(values[method])))
    mean, low, high = mean_interval(values["auto"])
    required = float(np.mean(values[best])) - slack
    return at_least(f"{text} ({best})", mean, round(required, 4), unit="", interval=(low, high))


def _one_run(
    target: Ward, pooled: Ward, sources: Sequence[Domain], learner: MetaLearner, shots: int, seed: int
) -> dict[str, float]:
    chosen_S = few(torch.from_numpy(target.ill_N), shots, seed).numpy()
    support = target.select(chosen_S)
    test = target.select(np.setdiff1d(np.arange(len(target.ill_N)), chosen_S))
    scores = {method: _our_scores(method, support, test, sources, learner, seed) for method in OURS}
    scores |= {name: peer(support, pooled, test, seed) for name, peer in PEERS.items()}
    return {method: float(roc_auc_score(test.ill_N, scores_Q)) for method, scores_Q in scores.items()}


def _our_scores(
    strategy: str, support: Ward, test: Ward, sources: Sequence[Domain], learner: MetaLearner, seed: int
) -> NDArray[np.float64]:
    """A refused model counts as one that tells nobody apart."""
    adaptation = adapt_table(strategy, support.labelled(), sources=sources, learner=learner, seed=seed)
    if adaptation is None:
        return np.zeros(len(test.ill_N))
    return in_order(adaptation, numeric_table(test.columns, test.rows_NF), ("no", "yes"))[:, 1].numpy()


def _together(wards: Sequence[Ward]) -> Ward:
    return Ward(
        columns=wards[0].columns,
        rows_NF=np.concatenate([ward.rows_NF for ward in wards]),
        ill_N=np.concatenate([ward.ill_N for ward in wards]),
    )
