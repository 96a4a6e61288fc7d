"""Sentiment of reviews of a new kind of product: eight domains, four to learn from, the other four new; both ways.

The official test rows are the test. Supports are drawn from the training rows of the target, which nothing else sees.
"""

from collections.abc import Sequence

import torch

from benchmarks.learning import data
from benchmarks.learning.baselines.kmm import kmm
from benchmarks.learning.baselines.logistic import target_only
from benchmarks.learning.baselines.pooled import pooled
from benchmarks.learning.baselines.problem import Baseline
from benchmarks.learning.baselines.setfit import train_setfit
from benchmarks.learning.baselines.tradaboost import tradaboost
from benchmarks.learning.few_shot import Scores, problem_of
from benchmarks.learning.grafted import Family, both, meta_learned, under
from benchmarks.learning.results import Bench, SuiteResult
from benchmarks.learning.transfer import hits, meta_options
from learning.config import GraftOptions
from learning.encoders.text import TextEncoder, load_minilm
from learning.types import LabelledSet

FOLDS = (("books", "dvd", "electronics", "baby"), ("apparel", "imdb", "toys_games", "video"))
SHOTS = (1, 8, 64)
REQUIRED = {1: 83.0, 8: 85.0, 64: 86.5}
CALIBRATED_AT = 8
#: Rows of each source that stage A trains on, that are encoded for stage B, and of the target to draw supports from.
STAGE_A_ROWS, SOURCE_ROWS, SUPPORT_ROWS = 1400, 500, 300
#: SetFit takes minutes a run: once for the first target of each fold, with the fewer pairs of its newer default.
SETFIT_SHOTS, SETFIT_SEED = 8, 0
SETFIT_TARGETS = ("apparel", "books")
STAGE_A_STEPS = 120
BASELINES: dict[str, Baseline] = {
    "logistic regression (scikit-learn)": target_only,
    "pooled logistic regression": pooled,
    "KMM": kmm,
    "TrAdaBoost": tradaboost,
}


def run(bench: Bench) -> SuiteResult:
    encoder = load_minilm()
    scores = Scores()
    folds = FOLDS[:1] if bench.quick else FOLDS
    for fold in folds:
        family = learned(bench, encoder, fold)
        targets = [name for other in FOLDS if other is not fold for name in other]
        rootstock = [under(bench, encoder, None, data.drawn(_train(bench, name), SOURCE_ROWS)) for name in fold]
        for name in targets[:1] if bench.quick else targets:
            _target(bench, encoder, family, rootstock, name, scores)
    return SuiteResult(
        name="sentiment",
        protocol=(
            f"Two folds: {', '.join(FOLDS[0])} are the sources of {', '.join(FOLDS[1])}, and the other way round. "
            f"Stage A reads {STAGE_A_ROWS} rows of each source, stage B and every baseline {SOURCE_ROWS}. Official "
            f"test files (400 rows); intervals over targets x {len(_seeds(bench))} seeds."
        ),
        unit="% accuracy",
        rows=scores.rows(),
        goals=[*scores.accuracy_goals(REQUIRED), *scores.calibration_goals(CALIBRATED_AT)],
        notes=[
            *scores.choices(),
            *scores.calibration_notes(CALIBRATED_AT),
            f"SetFit, each pair once: one run for each of {' and '.join(SETFIT_TARGETS)}.",
        ],
    )


def learned(bench: Bench, encoder: TextEncoder, sources: Sequence[str]) -> Family:
    """The graft and the meta-learner of a fold's sources."""
    raw = {name: _train(bench, name) for name in sources}
    steps = 4 if bench.quick else STAGE_A_STEPS
    # No time budget: the figures must not depend on how busy the machine is.
    options = meta_options(bench, GraftOptions(steps=steps, time_budget_s=7200))
    return meta_learned(bench, encoder, raw, options, rows=80 if bench.quick else SOURCE_ROWS)


def _train(bench: Bench, name: str) -> data.Examples[str]:
    return data.sentiment(bench.data, name, "train", 100 if bench.quick else STAGE_A_ROWS)


def _seeds(bench: Bench) -> range:
    return range(1 if bench.quick else 5)


def _target(
    bench: Bench, encoder: TextEncoder, family: Family, rootstock: Sequence[LabelledSet], name: str, scores: Scores
) -> None:
    """Every method at every number of shots and seed, on one target."""
    graft = family.learner.graft
    texts = _train(bench, name).first(SUPPORT_ROWS)
    pool = both(bench, encoder, graft, texts)
    test_texts = data.sentiment(bench.data, name, "test", 50 if bench.quick else None)
    test = both(bench, encoder, graft, test_texts)
    for shots in SHOTS:
        for seed in _seeds(bench):
            chosen = data.few(pool.labels_N, shots, seed)
            support = pool.select(chosen)
            scores.strategies(shots, support, encoder, family, test, seed)
            baselines = {n: b for n, b in BASELINES.items() if not (bench.quick and n == "TrAdaBoost")}
            scores.baselines(shots, baselines, problem_of(support, rootstock, seed), test)
            if (shots, seed) == (SETFIT_SHOTS, SETFIT_SEED) and name in SETFIT_TARGETS and not bench.quick:
                few_texts = texts.select(chosen.tolist())
                scores.accuracy["SetFit, each pair once", shots].append(
                    _setfit(bench, encoder, few_texts, test_texts, seed)
                )


def _setfit(
    bench: Bench, encoder: TextEncoder, support: data.Examples[str], test: data.Examples[str], seed: int
) -> float:
    torch.set_num_threads(bench.threads)
    model = train_setfit(encoder, support.inputs, support.labels, seed=seed, rounds=None)
    predicted = model.predict(test.inputs)
    torch.set_num_threads(1)
    numbers = {name: i for i, name in enumerate(test.classes)}
    return hits(torch.tensor([numbers[x] for x in predicted]), torch.tensor([numbers[x] for x in test.labels]))
