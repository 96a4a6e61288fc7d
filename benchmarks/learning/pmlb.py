"""Small real tables without any source: does `auto` hold its own against the usual learners of tables?

The tables were fixed before anything was measured on them: the collection without copies of one table, in the order of
the SHA-256 of their names; the first 30 classification and 10 regression tables are the suite's. The rest of the
collection served development, the suite's tables did not.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.learning.baselines.tabular import PEERS
from benchmarks.learning.results import Bench, Row, SuiteResult, at_most, mean_interval, row
from benchmarks.learning.tabular import adapt_table, in_order, numeric_table
from learning.types import Task, labelled_set

CLASSIFICATION = (
    "allhyper", "analcatdata_asbestos", "analcatdata_bankruptcy", "appendicitis", "breast-cancer-wisconsin", "breast-w",
    "breast_cancer", "car-evaluation", "cmc", "collins", "diabetes", "flags", "german", "hayes-roth", "hepatitis",
    "iris", "kr-vs-kp", "krkopt", "lupus", "mofn-3-7-10", "molecular-biology_promoters", "monk1", "page_blocks",
    "penguins", "postoperative_patient_data", "saheart", "sonar", "spambase", "vowel", "wine_quality_white",
)  # fmt: skip
REGRESSION = (
    "1028_SWD", "195_auto_price", "294_satellite_image", "519_vinnie", "523_analcatdata_neavote", "547_no2", "561_cpu",
    "663_rabe_266", "666_rmftsa_ladata", "687_sleuth_ex1605",
)  # fmt: skip
#: Labelled rows of the five seeds; a table of fewer than twice as many gives half of its rows.
SIZES = (10, 20, 30, 40, 50)
MAX_TEST_ROWS = 1000
OURS = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """`rows_NF` NaN where missing; `labels_N` texts (classification) or floats."""

    columns: tuple[str, ...]
    rows_NF: NDArray[np.float64]
    labels_N: NDArray[Any]

    @property
    def classification(self) -> bool:
        return bool(self.labels_N.dtype.kind != "f")

    def select(self, index_N: NDArray[np.int64]) -> "Sheet":
        return Sheet(columns=self.columns, rows_NF=self.rows_NF[index_N], labels_N=self.labels_N[index_N])


def run(bench: Bench) -> SuiteResult:
    classification, regression = (names[:: 3 if bench.quick else 1] for names in (CLASSIFICATION, REGRESSION))
    seeds = (0, 4) if bench.quick else range(len(SIZES))
    scores = {
        name: {method: np.array(values) for method, values in _table_scores(bench.data, name, seeds).items()}
        for name in (*classification, *regression)
    }
    every = (*classification, *regression)
    ranks = {name: _ranks({method: float(values.mean()) for method, values in scores[name].items()}) for name in every}
    groups = {
        f"{len(every)} tables": every,
        f"{len(classification)} classification tables": classification,
        f"{len(regression)} regression tables": regression,
    }
    rows = [_row(setting, method, ranks, names) for setting, names in groups.items() for method in (OURS, *PEERS)]
    means = {method: float(np.mean([ranks[name][method] for name in every])) for method in (OURS, *PEERS)}
    best = min(PEERS, key=lambda method: means[method])
    mean, low, high = mean_interval([ranks[name][OURS] for name in every])
    goal = at_most(
        f"mean rank of auto against the best peer's ({best})", mean, round(means[best], 4), interval=(low, high)
    )
    return SuiteResult(
        name="pmlb",
        protocol=f"{len(every)} tables, no sources, {', '.join(str(SIZES[seed]) for seed in seeds)} labelled rows (one "
        "draw each), at most 1,000 other rows for testing; per table, methods are ranked by their mean accuracy or R2",
        unit="mean rank of 5, 1 is best",
        rows=rows,
        goals=[goal],
        notes=[
            _mean_scores("Mean accuracy, %", scores, classification),
            _mean_scores("Mean R2, %", scores, regression),
        ],
    )


def _row(setting: str, method: str, ranks: dict[str, dict[str, float]], names: Sequence[str]) -> Row:
    return row(setting, method, [ranks[name][method] for name in names])


def _mean_scores(title: str, scores: dict[str, dict[str, NDArray[np.float64]]], names: Sequence[str]) -> str:
    means = {method: float(np.mean([scores[name][method].mean() for name in names])) for method in (OURS, *PEERS)}
    return f"{title}: " + ", ".join(f"{method} {100 * mean:.1f}" for method, mean in means.items()) + "."


def _ranks(scores: dict[str, float]) -> dict[str, float]:
    """Equal scores share their mean rank."""
    found = rankdata([-round(score, 6) for score in scores.values()])
    return dict(zip(scores, map(float, found), strict=True))


def _table_scores(data: Path, name: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    sheet = load(data / "pmlb" / f"{name}.tsv.gz", classification=name in CLASSIFICATION)
    scores: dict[str, list[float]] = {method: [] for method in (OURS, *PEERS)}
    for seed in seeds:
        support, test = draw(sheet, seed)
        scores[OURS].append(_score(_our_answers(support, test, seed), test))
        for method, fit in PEERS.items():
            scores[method].append(_score(fit(support.rows_NF, support.labels_N).predict(test.rows_NF), test))
    return scores


def load(path: Path, *, classification: bool) -> Sheet:
    """A tab-separated table whose column `target` is the label."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file, delimiter="\t"))
    place = header.index("target")
    labels = [line[place] for line in lines]
    values = [[_number(value) for i, value in enumerate(line) if i != place] for line in lines]
    return Sheet(
        columns=tuple(name for name in header if name != "target"),
        rows_NF=np.array(values, dtype=np.float64),
        labels_N=np.array(labels) if classification else np.array(labels, dtype=np.float64),
    )


def _number(text: str) -> float:
    return float("nan") if text in {"", "NA", "?"} else float(text)


def draw(sheet: Sheet, seed: int) -> tuple[Sheet, Sheet]:
    """Labelled rows at random, at least two classes with two rows among them, and the rows to test on."""
    random = np.random.default_rng(seed)
    n_support = min(SIZES[seed], len(sheet.labels_N) // 2)
    while True:
        order_N = random.permutation(len(sheet.labels_N))
        support = sheet.select(order_N[:n_support])
        counts = np.unique(support.labels_N, return_counts=True)[1]
        if not sheet.classification or (counts >= 2).sum() >= 2:
            return support, sheet.select(order_N[n_support : n_support + MAX_TEST_ROWS])


def _our_answers(support: Sheet, test: Sheet, seed: int) -> NDArray[Any]:
    """A refused model counts as one that always answers the commonest class, or the mean."""
    task: Task = "classification" if support.classification else "regression"
    labelled = labelled_set(numeric_table(support.columns, support.rows_NF), support.labels_N.tolist(), task)
    adaptation, queries = adapt_table("auto", labelled, seed=seed), numeric_table(test.columns, test.rows_NF)
    if support.classification:
        names, counts = np.unique(support.labels_N, return_counts=True)
        if adaptation is None:
            return np.full(len(test.labels_N), names[counts.argmax()])
        answered: NDArray[Any] = names[in_order(adaptation, queries, names.tolist()).argmax(1).numpy()]
        return answered
    values_Q = None if adaptation is None else adaptation.learner.predict(queries).values_Q
    return np.full(len(test.labels_N), support.labels_N.mean()) if values_Q is None else values_Q.numpy()


def _score(answers_Q: NDArray[Any], test: Sheet) -> float:
    """Accuracy, or R2 not below -1: one wild answer must not outweigh all other draws."""
    if test.classification:
        return float((answers_Q == test.labels_N).mean())
    error = float(np.square(answers_Q - test.labels_N).mean())
    return max(1 - error / max(float(test.labels_N.var()), 1e-12), -1.0)
