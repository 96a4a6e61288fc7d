"""Sources that would do harm: does `auto` notice, and fall back to not transferring?

Source labels are permuted, sources have nothing to do with the target, sources say the opposite, half of them do. Every
time source knowledge arrives in three ways: the sources alone; with a meta-learner of honest domains, whose card
promises a gain; and with a meta-learner of these very sources, which have only each other to be judged by.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from benchmarks.learning import data, pacs
from benchmarks.learning.features import encoded
from benchmarks.learning.results import Bench, Goal, Row, SuiteResult, at_most, mean_interval, row
from benchmarks.learning.transfer import accuracy, adapted, learn, meta_options
from learning.config import MetaTrainOptions
from learning.encoders.registry import Encoder, load_encoder
from learning.meta import MetaLearner
from learning.types import Domain, LabelledSet

SOURCES = ("books", "dvd", "electronics", "baby")
TARGETS = ("apparel", "toys_games", "video")
UNRELATED = ("banking", "kitchen_and_dining", "travel", "utility")
SHOTS = 8
SOURCE_ROWS, QUICK_ROWS = 500, 100
WAYS = ("no meta-learner", "meta-learner of honest domains", "meta-learner of these sources")
#: Points that `auto` may lose against target_only, and against the good half alone.
MOST_LOST, MOST_LOST_ON_MIX = 1.0, 1.5

HARMFUL = ("labels permuted", "unrelated domain", "labels flipped")
MIX, GOOD_HALF, HONEST, PICTURES = "half flipped", "good half alone", "all honest", "pacs, class names rotated"

#: Accuracies in percent by (scenario, method): a value for each target and seed, in one order.
Scores = dict[tuple[str, str], list[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """Sources, and the meta-learner of each way."""

    sources: Sequence[Domain]
    learners: Mapping[str, MetaLearner | None]


def run(bench: Bench) -> SuiteResult:
    text, image = load_encoder("minilm-l6-v2"), load_encoder("efficientnet-lite0")
    rows = QUICK_ROWS if bench.quick else SOURCE_ROWS
    targets = TARGETS[:1] if bench.quick else TARGETS
    seeds = range(2 if bench.quick else 5)
    honest = [
        Domain(name=name, data=encoded(bench, text, data.sentiment(bench.data, name, "train", rows)))
        for name in SOURCES
    ]
    scenarios = sentiment_scenarios(honest, unrelated(bench, text, honest[0].data.classes, rows))
    scores: Scores = defaultdict(list)
    known = knowledge(honest, scenarios, text, meta_options(bench))
    for name in targets:
        pool = encoded(bench, text, data.sentiment(bench.data, name, "train", rows))
        test = encoded(bench, text, data.sentiment(bench.data, name, "test", QUICK_ROWS if bench.quick else None))
        for seed in seeds:
            support = pool.select(data.few(pool.labels_N, SHOTS, seed))
            score(scores, known, support, test, text, seed)
    _pictures(scores, bench, image, len(seeds))
    return _result(scores, targets, len(seeds), rows)


def sentiment_scenarios(honest: Sequence[Domain], unrelated: Sequence[Domain]) -> dict[str, list[Domain]]:
    """Every scenario's sources. Of the mix, the second half of the domains is flipped."""
    half = len(honest) // 2
    return {
        HARMFUL[0]: [with_labels(domain, _permuted(domain.data.labels_N, i)) for i, domain in enumerate(honest)],
        HARMFUL[1]: list(unrelated),
        HARMFUL[2]: [rotated(domain) for domain in honest],
        MIX: [*honest[:half], *map(rotated, honest[half:])],
        GOOD_HALF: list(honest[:half]),
        HONEST: list(honest),
    }


def unrelated(bench: Bench, encoder: Encoder, classes: tuple[str, ...], rows: int) -> list[Domain]:
    """Questions to an assistant, each intent given one of the target's class names at random: learnable, but not so."""
    examples = data.clinc150(bench.data, "train")
    domains = []
    for seed, group in enumerate(UNRELATED):
        part = examples.select([i for i, of in enumerate(examples.groups) if of == group])
        part = data.drawn(part, rows, seed)
        order = data.shuffled(len(part.classes), seed).tolist()
        name_of = {intent: classes[place % len(classes)] for intent, place in zip(part.classes, order, strict=True)}
        named = data.Examples(inputs=part.inputs, labels=[name_of[label] for label in part.labels])
        domains.append(Domain(name=group, data=encoded(bench, encoder, named)))
    return domains


def with_labels(domain: Domain, labels_N: Tensor) -> Domain:
    found = domain.data
    return Domain(name=domain.name, data=LabelledSet(inputs=found.inputs, labels_N=labels_N, classes=found.classes))


def rotated(domain: Domain) -> Domain:
    """Every class under the name of the next one: two classes are flipped."""
    return with_labels(domain, (domain.data.labels_N + 1) % len(domain.data.classes))


def _permuted(labels_N: Tensor, seed: int) -> Tensor:
    """The labels dealt to the rows anew."""
    return labels_N[data.shuffled(len(labels_N), seed)]


def knowledge(
    honest: Sequence[Domain], scenarios: Mapping[str, Sequence[Domain]], encoder: Encoder, options: MetaTrainOptions
) -> dict[str, Knowledge]:
    trusting = learn(honest, encoder, options)

    def of(sources: Sequence[Domain]) -> Knowledge:
        own = trusting if list(sources) == list(honest) else learn(sources, encoder, options)
        return Knowledge(sources=sources, learners=dict(zip(WAYS, (None, trusting, own), strict=True)))

    return {name: of(sources) for name, sources in scenarios.items()}


def score(
    scores: Scores, known: Mapping[str, Knowledge], support: LabelledSet, test: LabelledSet, encoder: Encoder, seed: int
) -> None:
    """`auto` in every scenario and way, and target_only, which is the same in all of them."""
    alone = accuracy(adapted("target_only", support, encoder, seed=seed), test)
    for scenario, of in known.items():
        scores[scenario, "target_only"].append(alone)
        for way, learner in of.learners.items():
            found = adapted("auto", support, encoder, sources=of.sources, learner=learner, seed=seed)
            scores[scenario, f"auto, {way}"].append(accuracy(found, test))


def _pictures(scores: Scores, bench: Bench, encoder: Encoder, n_seeds: int) -> None:
    """Photos and paintings that call every class by the next one's name; cartoons are the target."""
    *honest, target = pacs.pictures(bench, encoder)
    known = knowledge(honest, {PICTURES: [rotated(domain) for domain in honest]}, encoder, meta_options(bench))
    for seed in range(n_seeds):
        pool, test = pacs.halves(target.data, seed)
        score(scores, known, pool.select(data.few(pool.labels_N, SHOTS, seed)), test, encoder, seed)


def _result(scores: Scores, targets: Sequence[str], n_seeds: int, source_rows: int) -> SuiteResult:
    goals = [_harm_goal(scores, scenario) for scenario in (*HARMFUL, PICTURES)]
    goals.append(_mix_goal(scores))
    return SuiteResult(
        name="hostile",
        protocol=(
            f"Targets {', '.join(targets)} with k = {SHOTS}, official test rows, {n_seeds} seeds; {source_rows} rows "
            f"of each of {', '.join(SOURCES)} are the honest sources, the unrelated ones are intents of CLINC150 under "
            f"the target's class names. On pictures: cartoon from photo and art_painting, k = {SHOTS}. Frozen "
            "features. Intervals over targets x seeds; a goal takes the worst of the three ways in which source "
            "knowledge arrives."
        ),
        unit="% accuracy",
        rows=_rows(scores),
        goals=goals,
    )


def _rows(scores: Scores) -> list[Row]:
    return [row(scenario, method, values) for (scenario, method), values in scores.items()]


def _harm_goal(scores: Scores, scenario: str) -> Goal:
    alone = scores[scenario, "target_only"]
    losses = {way: _paired(alone, scores[scenario, f"auto, {way}"]) for way in WAYS}
    return _worst(f"{scenario}: auto loses against target_only", losses, MOST_LOST)


def _mix_goal(scores: Scores) -> Goal:
    losses = {way: _paired(scores[GOOD_HALF, f"auto, {way}"], scores[MIX, f"auto, {way}"]) for way in WAYS}
    return _worst(f"{MIX}: auto loses against the good half alone", losses, MOST_LOST_ON_MIX)


def _paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    return mean_interval([a - b for a, b in zip(first, second, strict=True)])


def _worst(text: str, losses: Mapping[str, tuple[float, float, float]], most: float) -> Goal:
    way = max(losses, key=lambda way: losses[way][0])
    mean, low, high = losses[way]
    return at_most(f"{text} ({way})", mean, most, "points", interval=(low, high))
