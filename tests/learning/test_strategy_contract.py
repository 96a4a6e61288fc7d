"""What every strategy promises, parametrised over the registry: a new strategy inherits all of it."""

from typing import Any

import pytest
import torch

from learning.adaptation import Adaptation, adapt
from learning.artifact import dump_learner, load_learner
from learning.config import STRATEGIES
from learning.errors import Cancelled, InvalidData, UselessModel
from learning.featurisers import Centring
from learning.meta import MetaLearner
from learning.types import Domain, Features, LabelledSet, Task, labelled_set
from tests.learning.problems import (
    CLASSES,
    WIDTH,
    accuracy,
    blobs,
    features,
    probabilities,
    quick_meta_learner,
    run,
    slopes,
    sources,
)  # fmt: skip

everywhere = pytest.mark.parametrize("strategy", sorted(STRATEGIES))


@pytest.fixture(scope="module")
def meta_learner() -> MetaLearner:
    return quick_meta_learner()


@pytest.fixture(scope="module")
def regression_meta_learner() -> MetaLearner:
    return quick_meta_learner("regression")


def adapted(strategy: str, target: LabelledSet, meta_learner: MetaLearner, **options: Any) -> Adaptation:
    transfers = strategy != "target_only"
    return run(
        strategy,
        target,
        using=sources(target.task) if transfers else (),
        meta_learner=meta_learner if transfers else None,
        **options,
    )


@everywhere
def test_strategy_learns_a_toy_problem(strategy: str, meta_learner: MetaLearner) -> None:
    adaptation = adapted(strategy, blobs(7, 6), meta_learner)
    assert accuracy(adaptation, blobs(7, 50)) > 0.85


@everywhere
def test_strategy_ignores_the_order_of_support(strategy: str, meta_learner: MetaLearner) -> None:
    target, queries = blobs(7, 5), features(blobs(8, 20))
    shuffled = target.select(torch.randperm(len(target), generator=torch.Generator().manual_seed(3)))
    first = probabilities(adapted(strategy, target, meta_learner), queries)
    second = probabilities(adapted(strategy, shuffled, meta_learner), queries)
    assert torch.allclose(first, second, atol=1e-6)


@everywhere
def test_strategy_ignores_the_order_of_copies_with_different_labels(
    strategy: str, regression_meta_learner: MetaLearner
) -> None:
    inputs = features(slopes(7, 5))
    labels = torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()
    target = labelled_set(Features(matrix_NF=inputs.matrix_NF.repeat(6, 1)), labels, "regression")
    shuffled = target.select(torch.randperm(30, generator=torch.Generator().manual_seed(3)))
    using = sources("regression")[:1] if strategy != "target_only" else []
    learner = regression_meta_learner if strategy != "target_only" else None
    first, second = (
        run(strategy, data, using=using, meta_learner=learner).learner.predict(inputs).intervals_Q2
        for data in (target, shuffled)
    )
    assert first is not None
    assert second is not None
    assert torch.allclose(first, second, atol=1e-9)


@pytest.mark.parametrize("strategy", ["metric", "init"])
def test_one_shot_scores_of_noise_do_not_tell_the_held_out_label(strategy: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def noise(n_per_class: int) -> LabelledSet:
        rows = torch.randn(5 * n_per_class, 100, generator=generator)
        return labelled_set(Features(matrix_NF=rows), list("abcde") * n_per_class, "classification")

    options = {"similarity": "euclidean"} if strategy == "metric" else {"fine_tune_steps": 0}
    hits = 0.0
    for _ in range(8):
        using = [Domain(name=str(i), data=noise(20)) for i in range(3)]
        try:
            candidates = run(strategy, noise(1), using=using, **options).report["candidates"]
        except UselessModel:
            continue
        hits += candidates[1]["score"]
    assert hits / 8 < 0.4


@everywhere
def test_strategy_permutes_its_columns_when_labels_are_renamed(strategy: str, meta_learner: MetaLearner) -> None:
    target, queries = blobs(7, 5), features(blobs(8, 20))
    renaming = {"bad": "good", "fine": "bad", "good": "fine"}

    def renamed(data: LabelledSet) -> LabelledSet:
        return labelled_set(data.inputs, [renaming[data.classes[y]] for y in data.labels_N.tolist()], "classification")

    using = [Domain(name=s.name, data=renamed(s.data)) for s in sources()] if strategy != "target_only" else []
    learner = meta_learner if strategy != "target_only" else None
    first = run(strategy, target, using=sources() if using else [], meta_learner=learner)
    second = run(strategy, renamed(target), using=using, meta_learner=learner)
    columns = [second.learner.classes.index(renaming[name]) for name in first.learner.classes]
    expected, answered = probabilities(first, queries), probabilities(second, queries)[:, columns]
    assert torch.allclose(expected, answered, atol=1e-5)


@everywhere
def test_strategy_answers_a_query_alone_as_in_a_batch(strategy: str, meta_learner: MetaLearner) -> None:
    adaptation, queries = adapted(strategy, blobs(7, 5), meta_learner), features(blobs(8, 20))
    batch = adaptation.learner.predict(queries)
    for row in (0, 17):
        alone = adaptation.learner.predict(queries.select(torch.tensor([row])))
        assert batch.probs_QC is not None
        assert alone.probs_QC is not None
        assert torch.allclose(batch.probs_QC[row], alone.probs_QC[0], atol=1e-6)
        assert torch.allclose(batch.ood_Q[row], alone.ood_Q[0], atol=1e-4)


@everywhere
def test_strategy_gives_the_same_bytes_for_the_same_seed(strategy: str, meta_learner: MetaLearner) -> None:
    first, second = (adapted(strategy, blobs(7, 5), meta_learner) for _ in range(2))
    assert dump_learner(first.learner) == dump_learner(second.learner)
    assert first.report == second.report


@everywhere
def test_strategy_answers_equally_when_asked_twice(strategy: str, meta_learner: MetaLearner) -> None:
    adaptation, queries = adapted(strategy, blobs(7, 5), meta_learner), features(blobs(8, 20))
    assert torch.equal(probabilities(adaptation, queries), probabilities(adaptation, queries))


@everywhere
def test_strategy_answers_equally_after_save_and_load(strategy: str, meta_learner: MetaLearner) -> None:
    adaptation, queries = adapted(strategy, blobs(7, 5), meta_learner), features(blobs(8, 20))
    loaded = load_learner(dump_learner(adaptation.learner))
    before, after = adaptation.learner.predict(queries), loaded.predict(queries)
    assert before.probs_QC is not None
    assert after.probs_QC is not None
    assert torch.equal(before.probs_QC, after.probs_QC)
    assert torch.equal(before.ood_Q, after.ood_Q)
    assert dump_learner(loaded) == dump_learner(adaptation.learner)


@everywhere
def test_strategy_never_answers_a_label_that_only_sources_have(strategy: str, meta_learner: MetaLearner) -> None:
    two = blobs(7, 6).select(torch.arange(12))
    target = labelled_set(two.inputs, [two.classes[y] for y in two.labels_N.tolist()], "classification")
    adaptation = adapted(strategy, target, meta_learner)
    assert adaptation.learner.classes == CLASSES[:2]
    assert probabilities(adaptation, features(blobs(8, 20))).shape[1] == 2


@pytest.mark.parametrize("strategy", ["metric", "init"])
def test_strategy_gives_source_rows_no_weight_when_no_label_is_shared(strategy: str, meta_learner: MetaLearner) -> None:
    target = labelled_set(features(blobs(7, 5)), [n for n in "xyz" for _ in range(5)], "classification")
    adaptation = run(strategy, target, using=sources(), meta_learner=meta_learner)
    assert adaptation.report["labels"] == "disjoint"
    assert all(source["weight"] == 0 and not source["top_examples"] for source in adaptation.report["sources"])


@everywhere
def test_strategy_learns_a_regression(strategy: str, regression_meta_learner: MetaLearner) -> None:
    adaptation = adapted(strategy, slopes(7, 40), regression_meta_learner)
    fresh = slopes(7, 40)
    values = adaptation.learner.predict(fresh.inputs).values_Q
    assert values is not None
    error = (values - fresh.labels_N).square().mean() / fresh.labels_N.var()
    assert float(error) < 0.3


@everywhere
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_strategy_reports_what_the_contract_names(
    strategy: str, task: Task, meta_learner: MetaLearner, regression_meta_learner: MetaLearner
) -> None:
    target = blobs(7, 6) if task == "classification" else slopes(7, 20)
    learner = meta_learner if task == "classification" else regression_meta_learner
    report = adapted(strategy, target, learner).report
    assert set(report) >= {
        "strategy", "candidates", "transfer_gain", "chosen_because", "metrics", "calibration", "sources", "warnings",
    }  # fmt: skip
    assert report["candidates"][0]["strategy"] == "target_only"
    assert all(entry["interval"][0] <= entry["score"] <= entry["interval"][1] for entry in report["candidates"])


@everywhere
def test_strategy_handles_one_example_per_class(strategy: str, meta_learner: MetaLearner) -> None:
    adaptation = adapted(strategy, blobs(7, 1), meta_learner)
    assert torch.isfinite(probabilities(adaptation, features(blobs(8, 5)))).all()
    assert any(warning["code"] == "one_shot_classes" for warning in adaptation.report["warnings"])


@everywhere
def test_strategy_refuses_a_single_class(strategy: str, meta_learner: MetaLearner) -> None:
    target = labelled_set(Features(matrix_NF=torch.randn(4, WIDTH)), ["only"] * 4, "classification")
    with pytest.raises(InvalidData, match="single class"):
        adapted(strategy, target, meta_learner)


@everywhere
def test_strategy_stops_when_progress_raises(strategy: str) -> None:
    def cancel(_fraction: float, _phase: str) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        adapt(
            target=Domain(name="t", data=blobs(7, 3)), sources=sources(), featuriser=Centring(), modality="text",
            encoder="none", encoder_revision="0", columns={}, strategy=strategy, options=STRATEGIES[strategy](),
            meta_learner=None, seed=0, progress=cancel,
        )  # fmt: skip


@everywhere
def test_strategy_abstains_on_foreign_rows_and_seldom_on_its_own(strategy: str, meta_learner: MetaLearner) -> None:
    learner = adapted(strategy, blobs(7, 10), meta_learner).learner
    own = learner.predict(features(blobs(7, 60))).abstain_Q
    foreign = learner.predict(Features(matrix_NF=25 + features(blobs(9, 20)).matrix_NF)).abstain_Q
    assert float(own.double().mean()) <= 0.15
    assert foreign.all()
