"""Seven kinds of things in a new style of picture: photo, art painting, cartoon (PACS), two to learn from, one new.

Few-shot from frozen Lite0 features. The baselines are as in `benchmarks.learning.baselines`; `target_only` is the
library's own, which the goals compare with, beside scikit-learn's logistic regression.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from benchmarks.learning import data
from benchmarks.learning.baselines import protonet
from benchmarks.learning.baselines.kmm import kmm
from benchmarks.learning.baselines.logistic import target_only
from benchmarks.learning.baselines.pooled import pooled
from benchmarks.learning.baselines.problem import Baseline, Problem
from benchmarks.learning.baselines.tradaboost import tradaboost
from benchmarks.learning.features import encoded
from benchmarks.learning.results import Bench, SuiteResult, at_least, mean_interval, row
from benchmarks.learning.transfer import accuracy, adapted, hits, learn, meta_options, rows
from learning.encoders.registry import Encoder, load_encoder
from learning.featurisers import FittedCentring
from learning.meta import MetaLearner
from learning.sources import build_bank
from learning.types import Domain, LabelledSet

SHOTS = (1, 5)
#: Pictures of each class, and steps of ProtoNet, in the short form.
QUICK_PICTURES, QUICK_STEPS = 20, 30
STRATEGIES = ("target_only", "metric", "init", "auto")
BASELINES: dict[str, Baseline] = {
    "logistic regression (scikit-learn)": target_only,
    "pooled logistic regression": pooled,
    "KMM": kmm,
    "TrAdaBoost": tradaboost,
}
REQUIRED_GAIN = 8.0

#: Accuracies in percent by method, shots and target; one for each seed, in the order of seeds.
Scores = dict[tuple[str, int, str], list[float]]


def run(bench: Bench) -> SuiteResult:
    encoder = load_encoder("efficientnet-lite0")
    seeds = range(1 if bench.quick else 10)
    domains = pictures(bench, encoder)
    scores: Scores = defaultdict(list)
    for target in domains:
        sources = [domain for domain in domains if domain is not target]
        learner = learn(sources, encoder, meta_options(bench))
        baselines = BASELINES | {"ProtoNet": _protonet(sources, QUICK_STEPS if bench.quick else protonet.STEPS)}
        for seed in seeds:
            pool, test = halves(target.data, seed)
            for shots in SHOTS:
                support = pool.select(data.few(pool.labels_N, shots, seed))
                for method, value in _methods(support, sources, learner, baselines, test, encoder, seed):
                    scores[method, shots, target.name].append(value)
    return _result(scores, len(seeds))


def pictures(bench: Bench, encoder: Encoder) -> list[Domain]:
    """The three domains; of the short form a third of their pictures."""
    examples = {name: data.pacs(bench.data, name) for name in data.PACS_DOMAINS}
    if bench.quick:
        examples = {name: data.few_of(each, QUICK_PICTURES, 0) for name, each in examples.items()}
    return [Domain(name=name, data=encoded(bench, encoder, each)) for name, each in examples.items()]


def halves(target: LabelledSet, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """Half of each class to draw supports from, and the other half to test on."""
    n_test = int(torch.bincount(target.labels_N).min()) // 2
    test = data.few(target.labels_N, n_test, seed)
    rest = torch.ones(len(target), dtype=torch.bool)
    rest[test] = False
    return target.select(rest.nonzero()[:, 0]), target.select(test)


def _methods(
    support: LabelledSet, sources: Sequence[Domain], learner: MetaLearner, baselines: Mapping[str, Baseline],
    test: LabelledSet, encoder: Encoder, seed: int,
) -> list[tuple[str, float]]:  # fmt: skip
    found = [
        (name, accuracy(adapted(name, support, encoder, sources=sources, learner=learner, seed=seed), test))
        for name in STRATEGIES
    ]
    problem = Problem(
        support_SF=rows(support),
        support_labels_S=support.labels_N,
        source_MF=torch.cat([rows(source.data) for source in sources]),
        source_labels_M=torch.cat([source.data.labels_N for source in sources]),
        n_classes=len(support.classes),
        seed=seed,
    )
    for name, baseline in baselines.items():
        found.append((name, hits(baseline(problem, rows(test)).argmax(1), test.labels_N)))
    return found


def _protonet(sources: Sequence[Domain], steps: int) -> Baseline:
    """Meta-trained on the sources' own features: it brings its own scaling."""
    every = torch.cat([rows(source.data) for source in sources])
    plain = FittedCentring(mean_F=torch.zeros(every.shape[1]), directions_KF=torch.zeros(0, every.shape[1]), scale=1.0)
    bank = build_bank(sources, plain, max_rows=len(every), generator=torch.Generator().manual_seed(0))
    return protonet.train(bank, seed=0, steps=steps)


def _result(scores: Scores, n_seeds: int) -> SuiteResult:
    methods = list(dict.fromkeys(method for method, _, _ in scores))
    table, goals = [], []
    for shots in SHOTS:
        for method in methods:
            values = [value for domain in data.PACS_DOMAINS for value in scores[method, shots, domain]]
            table.append(row(f"k = {shots}", method, values))
        gains = [
            auto - alone
            for domain in data.PACS_DOMAINS
            for auto, alone in zip(scores["auto", shots, domain], scores["target_only", shots, domain], strict=True)
        ]
        mean, low, high = mean_interval(gains)
        goals.append(
            at_least(
                f"auto over target_only at k = {shots}, mean of three targets", mean, REQUIRED_GAIN, "points",
                interval=(low, high),
            )
        )  # fmt: skip
    return SuiteResult(
        name="pacs",
        protocol=(
            "Each of photo, art_painting and cartoon is the target once, the other two are the sources and train the "
            "meta-learner. Frozen Lite0. For every seed half of each class (30 images) is tested on and k per class of "
            f"the other half are the support; {n_seeds} seeds, intervals over 3 targets x {n_seeds} seeds."
        ),
        unit="% accuracy",
        rows=table,
        goals=goals,
        notes=[_by_target(scores)],
    )


def _by_target(scores: Scores) -> str:
    parts = []
    for domain in data.PACS_DOMAINS:
        gains = []
        for shots in SHOTS:
            auto, alone = scores["auto", shots, domain], scores["target_only", shots, domain]
            gains.append(f"{mean_interval(auto)[0] - mean_interval(alone)[0]:+.1f}")
        parts.append(f"{domain} {' and '.join(gains)}")
    return f"Gain of auto at k = {' and '.join(map(str, SHOTS))} by target: {', '.join(parts)}."
