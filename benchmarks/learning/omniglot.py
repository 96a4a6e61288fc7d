"""Characters of alphabets never seen: meta-trained on 24 alphabets of Omniglot's background set, tested on the other 6.

The six are the last by name. An episode draws characters from all six at once, one drawing of each to learn from and
five to answer. The graft is trained with quarter turns of a character as further characters.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.learning import data
from benchmarks.learning.baselines import anil, protonet
from benchmarks.learning.baselines.problem import Baseline, Problem
from benchmarks.learning.grafted import Family, meta_learned, under
from benchmarks.learning.results import Bench, SuiteResult, at_least, mean_interval, row
from benchmarks.learning.transfer import meta_options, rows
from learning.config import GraftOptions
from learning.encoders.lite0 import load_small_lite0
from learning.featurisers import Centring
from learning.grafts import Graftable
from learning.initialisation import init_outputs
from learning.meta import UNROLLED_STEPS, MetaLearner
from learning.metric import metric_outputs
from learning.sources import build_bank
from learning.task import TransferTask
from learning.types import Domain, Features

N_TRAIN = 24
WAYS = (5, 20)
REQUIRED = {5: 98.5, 20: 95.0}
QUERIES, BATCH = 5, 20
SOURCE_ROWS = 300
GRAFT = GraftOptions(steps=1000, batch_rows=96, loss="episodic", augmentation="affine_and_turns", time_budget_s=7200)

#: Answers (E, Q) in 0..way-1 to queries (E, Q, F) given one row per class (E, way, F).
Method = Callable[[Tensor, Tensor], Tensor]


def run(bench: Bench) -> SuiteResult:
    encoder = load_small_lite0()
    alphabets = {name: _named(name, drawn) for name, drawn in sorted(data.omniglot(bench.data).items())}
    names = list(alphabets)
    train, test = names[: 4 if bench.quick else N_TRAIN], names[N_TRAIN:]
    if bench.quick:
        alphabets = {name: data.drawn(examples, 200) for name, examples in alphabets.items()}
    sources = {name: alphabets[name] for name in train}
    graft = replace(GRAFT, steps=6) if bench.quick else GRAFT
    family = meta_learned(bench, encoder, sources, meta_options(bench, graft), rows=SOURCE_ROWS)
    frozen, grafted = (
        _by_character(torch.cat([rows(under(bench, encoder, worn, alphabets[name])) for name in test]), alphabets, test)
        for worn in (None, family.learner.graft)
    )
    table, goals = [], []
    chosen = _by_card(family.learner)
    trained = _trained(bench, encoder, sources, steps=20 if bench.quick else 1000)
    for way in WAYS:
        methods = {**_frozen(trained, way), **_grafted(family, way)}
        scores = {
            name: _score(method, grafted if name in _GRAFTED else frozen, way, 40 if bench.quick else 600)
            for name, method in methods.items()
        }
        table += [row(f"{way}-way 1-shot", name, values) for name, values in scores.items()]
        mean, low, high = mean_interval(scores[chosen])
        goals.append(
            at_least(f"{way}-way 1-shot, {chosen} (chosen by its card)", mean, REQUIRED[way], interval=(low, high))
        )
    return SuiteResult(
        name="omniglot",
        protocol=(
            f"Meta-trained on {len(train)} alphabets (Lite0 at 64 pixels, {graft.steps} steps of stage A), tested on "
            f"{', '.join(test)}: episodes of characters of all six, one drawing each, {QUERIES} queries per character. "
            "Intervals are over episodes; one meta-training."
        ),
        unit="% accuracy",
        rows=table,
        goals=goals,
        notes=[
            "The six test alphabets were scored once before, with a graft of 21 alphabets, while the recipe was made."
        ],
    )


def _named(alphabet: str, drawings: data.Examples[bytes]) -> data.Examples[bytes]:
    """Characters are numbered from 1 in every alphabet: only with the alphabet does the number name one."""
    return data.Examples(inputs=drawings.inputs, labels=[f"{alphabet}/{label}" for label in drawings.labels])


def _by_character(features_NF: Tensor, alphabets: Mapping[str, data.Examples[bytes]], names: list[str]) -> list[Tensor]:
    """(K, F) for each character: its K drawings."""
    labels = [label for name in names for label in alphabets[name].labels]
    places: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    return [features_NF[index] for index in places.values() if len(index) > QUERIES]


_GRAFTED = ("nearest prototype, grafted", "metric", "init")


def _grafted(family: Family, way: int) -> dict[str, Method]:
    """The library's own, batched as in meta-training."""
    learner = family.learner
    digest = learner.graft.digest if learner.graft else ""
    parameters = learner.parameters.to(torch.float64)

    def seen(features: Tensor) -> Tensor:
        flat = learner.featuriser.transform(Features.only(features.flatten(0, 1), digest))
        return flat.double().view(*features.shape[:2], -1)

    def metric(support_EWF: Tensor, query_EQF: Tensor) -> Tensor:
        task = _task(seen(support_EWF), way)
        return metric_outputs(parameters, task, seen(query_EQF), similarity=learner.similarity).argmax(-1)

    def init(support_EWF: Tensor, query_EQF: Tensor) -> Tensor:
        task = _task(seen(support_EWF), way)
        outputs_EQT = init_outputs(
            parameters, task, seen(query_EQF), similarity=learner.similarity, steps=UNROLLED_STEPS
        )
        return outputs_EQT.argmax(-1)

    return {"nearest prototype, grafted": _nearest, "metric": metric, "init": init}


def _trained(
    bench: Bench, encoder: Graftable, sources: Mapping[str, data.Examples[bytes]], *, steps: int
) -> dict[str, Baseline]:
    """ProtoNet and ANIL on the rootstock's features of the sources; both take features as the sources centre them."""
    domains = [
        Domain(name=name, data=under(bench, encoder, None, data.drawn(examples, SOURCE_ROWS)))
        for name, examples in sources.items()
    ]
    fitted = Centring().fit([domain.data.inputs for domain in domains])
    bank = build_bank(domains, fitted, max_rows=SOURCE_ROWS, generator=torch.Generator().manual_seed(0))

    def centred(baseline: Baseline) -> Baseline:
        def answer(problem: Problem, query_QF: Tensor) -> Tensor:
            support_SF, query_QF = (
                fitted.transform(Features(matrix_NF=rows_NF)) for rows_NF in (problem.support_SF, query_QF)
            )
            return baseline(replace(problem, support_SF=support_SF, source_MF=support_SF[:0]), query_QF)

        return answer

    return {
        "ProtoNet": centred(protonet.train(bank, 0, steps=steps)),
        "ANIL": centred(anil.train(bank, 0, options=replace(anil.OPTIONS, steps=steps))),
    }


def _frozen(trained: Mapping[str, Baseline], way: int) -> dict[str, Method]:
    """Baselines on the rootstock's features."""

    def each(baseline: Baseline) -> Method:
        def one(support_WF: Tensor, query_QF: Tensor) -> Tensor:
            problem = Problem(
                support_SF=support_WF, support_labels_S=torch.arange(way), source_MF=support_WF[:0],
                source_labels_M=torch.zeros(0).long(), n_classes=way,
            )  # fmt: skip
            return baseline(problem, query_QF).argmax(-1)

        return lambda support_EWF, query_EQF: torch.stack(
            [one(s, q) for s, q in zip(support_EWF, query_EQF, strict=True)]
        )

    return {"nearest prototype, frozen": _nearest} | {name: each(baseline) for name, baseline in trained.items()}


def _nearest(support_EWF: Tensor, query_EQF: Tensor) -> Tensor:
    return (F.normalize(query_EQF, dim=-1) @ F.normalize(support_EWF, dim=-1).mT).argmax(-1)


def _task(support_EWF: Tensor, way: int) -> TransferTask:
    """One row per class and nothing to transfer but what the parameters hold."""
    n_episodes, _, width = support_EWF.shape
    empty = support_EWF.new_zeros(n_episodes, 0)
    return TransferTask(
        support_ESF=support_EWF,
        support_targets_EST=torch.eye(way).to(support_EWF).expand(n_episodes, -1, -1),
        source_EMF=support_EWF[:, :0],
        source_targets_EMT=support_EWF.new_zeros(n_episodes, 0, way),
        source_usable_EM=empty,
        source_domain_EM=empty.long(),
        prior_EDTF=support_EWF.new_zeros(n_episodes, 0, way, width),
        prior_bias_EDT=support_EWF.new_zeros(n_episodes, 0, way),
        known_ED=empty,
        classification=True,
    )


def _score(method: Method, characters: list[Tensor], way: int, episodes: int) -> list[float]:
    """Accuracy in percent of each episode; every method sees the same ones."""
    generator = torch.Generator().manual_seed(way)
    scores: list[float] = []
    while len(scores) < episodes:
        supports, queries = [], []
        for _ in range(BATCH):
            chosen = torch.randperm(len(characters), generator=generator)[:way].tolist()
            drawn = [characters[c][torch.randperm(len(characters[c]), generator=generator)] for c in chosen]
            supports.append(torch.stack([rows_KF[0] for rows_KF in drawn]))
            queries.append(torch.cat([rows_KF[1 : 1 + QUERIES] for rows_KF in drawn]))
        right_Q = torch.arange(way).repeat_interleave(QUERIES)
        answers_EQ = method(torch.stack(supports), torch.stack(queries))
        scores += (100 * (answers_EQ == right_Q).double().mean(1)).tolist()
    return scores


def _by_card(learner: MetaLearner) -> str:
    """The transfer learner with the larger gain at one shot: what `auto` goes by where nothing can be held out."""
    first = learner.card["episodes"][0]
    return max(("metric", "init"), key=lambda name: float(first[name]["gain"]["value"]))
