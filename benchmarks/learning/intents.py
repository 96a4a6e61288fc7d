"""Intents of a bank's customers (BANKING77) after meta-training on general ones (CLINC150): no label is shared.

CLINC150's ten groups of intents are ten source domains. The official test set is the test; supports are drawn from the
official training set, which nothing else sees.
"""

from dataclasses import replace

import torch

from benchmarks.learning import data
from benchmarks.learning.baselines.logistic import target_only
from benchmarks.learning.baselines.problem import Baseline
from benchmarks.learning.few_shot import Scores, problem_of
from benchmarks.learning.grafted import Family, both, encoded_names, meta_learned
from benchmarks.learning.results import Bench, SuiteResult
from benchmarks.learning.transfer import meta_options
from learning.config import GraftOptions
from learning.encoders.text import TextEncoder, load_minilm
from learning.types import LabelledSet

SHOTS = (1, 5, 8, 10)
#: Rows of every intent: each has to be in the test.
QUICK_TEST_SHOTS = 2
REQUIRED = {1: 60.0, 5: 82.0, 10: 87.5}
CALIBRATED_AT = 8
#: Rows of each source that are encoded for stage B.
SOURCE_ROWS = 450
GRAFT = GraftOptions(steps=100, lr=2.5e-3, time_budget_s=7200)
BASELINES: dict[str, Baseline] = {"logistic regression (scikit-learn)": target_only}


def run(bench: Bench) -> SuiteResult:
    encoder = load_minilm()
    family = learned(bench, encoder)
    texts = data.banking77(bench.data, "train")
    test_texts = data.banking77(bench.data, "test")
    if bench.quick:
        test_texts = data.few_of(test_texts, QUICK_TEST_SHOTS, 0)
    test = both(bench, encoder, family.learner.graft, test_texts)
    names = encoded_names(bench, encoder, family.learner.graft, test.classes)
    scores = Scores()
    seeds = range(1 if bench.quick else 5)
    for shots in SHOTS:
        for seed in seeds:
            support = _support(bench, encoder, family, texts, shots, seed)
            scores.strategies(shots, support, encoder, family, test, seed, names)
            scores.baselines(shots, BASELINES, problem_of(support, [support.select(torch.zeros(0).long())], seed), test)
    return SuiteResult(
        name="intents",
        protocol=(
            f"Meta-trained on the ten groups of CLINC150 (stage A on all of its 15,000 training rows, stage B on "
            f"{SOURCE_ROWS} of each), target BANKING77, {len(test):,} rows of its official test set, "
            f"{len(seeds)} seeds."
        ),
        unit="% accuracy",
        rows=scores.rows(),
        goals=[*scores.accuracy_goals(REQUIRED), *scores.calibration_goals(CALIBRATED_AT)],
        notes=[*scores.choices(), *scores.calibration_notes(CALIBRATED_AT)],
    )


def learned(bench: Bench, encoder: TextEncoder) -> Family:
    """The graft and the meta-learner of CLINC150's groups."""
    texts = data.clinc150(bench.data, "train")
    groups = {
        group: texts.select([i for i, name in enumerate(texts.groups) if name == group])
        for group in sorted(set(texts.groups))
    }
    if bench.quick:
        groups = {name: data.drawn(examples, 100) for name, examples in groups.items()}
    graft = replace(GRAFT, steps=3) if bench.quick else GRAFT
    return meta_learned(bench, encoder, groups, meta_options(bench, graft), rows=100 if bench.quick else SOURCE_ROWS)


def _support(
    bench: Bench, encoder: TextEncoder, family: Family, texts: data.Examples[str], shots: int, seed: int
) -> LabelledSet:
    return both(bench, encoder, family.learner.graft, data.few_of(texts, shots, seed))
