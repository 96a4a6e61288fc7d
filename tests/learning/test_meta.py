from dataclasses import replace

import pytest
import torch

from learning.artifact import dump_learner, dump_meta_learner, load_learner, load_meta_learner, read_header
from learning.config import EpisodeOptions
from learning.episodes import EpisodeSampler
from learning.errors import IncompatibleDomain, InvalidArtifact, InvalidData, UselessModel
from learning.featurisers import Centring
from learning.meta import meta_train
from learning.projection import cross_fitted, shrunk_covariance
from learning.sources import SourceBank, build_bank, stratified_subsample
from learning.splits import split_sources
from learning.types import Domain, Features, labelled_set
from tests.learning.problems import WIDTH, blobs, quick_meta_learner, quick_options, run, slopes, sources


def bank(n_domains: int = 3) -> SourceBank:
    domains = sources(n_domains=n_domains)
    fitted = Centring().fit([d.data.inputs for d in domains])
    return build_bank(domains, fitted, max_rows=1000, generator=torch.Generator().manual_seed(0))


def sampler(b: SourceBank, **options: object) -> EpisodeSampler:
    domains = tuple(range(len(b.names)))
    return EpisodeSampler(
        bank=b, targets=domains, helpers=domains, pool_N=torch.ones(len(b.labels_N), dtype=torch.bool),
        options=EpisodeOptions(**({"max_shot": 8, "hostile": 0.0} | options)),  # type: ignore[arg-type]
    )  # fmt: skip


def test_episode_draws_support_and_query_apart_and_sources_from_other_domains() -> None:
    b = bank()
    batch = sampler(b).draw(5, torch.Generator().manual_seed(1), shots=4)
    rows = {tuple(row.tolist()): i for i, row in enumerate(b.features_NF)}
    for e in range(5):
        support = [rows[tuple(row.tolist())] for row in batch.task.support_ESF[e]]
        query = [rows[tuple(row.tolist())] for row in batch.query_EQF[e]]
        target = {int(b.domain_N[row]) for row in support + query}
        assert len(target) == 1
        assert not set(support) & set(query)
        helpers = set(batch.task.source_domain_EM[e][batch.task.source_usable_EM[e] > 0].tolist())
        assert helpers
        assert not helpers & target


def test_episode_labels_agree_with_the_bank_when_it_is_honest() -> None:
    b = bank()
    batch = sampler(b).draw(4, torch.Generator().manual_seed(1), shots=2)
    rows = {tuple(row.tolist()): i for i, row in enumerate(b.features_NF)}
    for e in range(4):
        meaning: dict[int, int] = {}
        for row, targets in zip(batch.task.support_ESF[e], batch.task.support_targets_EST[e], strict=True):
            meaning[int(targets.argmax())] = int(b.labels_N[rows[tuple(row.tolist())]])
        for m in range(batch.task.source_EMF.shape[1]):
            if batch.task.source_usable_EM[e, m]:
                row = rows[tuple(batch.task.source_EMF[e, m].tolist())]
                assert meaning[int(batch.task.source_targets_EMT[e, m].argmax())] == int(b.labels_N[row])


def test_hostile_episode_gives_sources_another_label() -> None:
    honest = sampler(bank(), hostile=0.0).draw(20, torch.Generator().manual_seed(1), shots=2).task
    hostile = sampler(bank(), hostile=1.0).draw(20, torch.Generator().manual_seed(1), shots=2).task
    assert torch.equal(honest.support_targets_EST, hostile.support_targets_EST)
    moved = (honest.source_targets_EMT != hostile.source_targets_EMT).any(-1) & (honest.source_usable_EM > 0)
    assert float(moved.double().mean()) > 0.5


def test_episodes_are_equal_when_the_generator_is() -> None:
    first, second = (sampler(bank()).draw(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.query_EQF, second.query_EQF)


def test_regression_episode_of_a_constant_support_stays_in_label_units() -> None:
    few = labelled_set(slopes(1, 40).inputs, [0.0] * 36 + [5.0] * 4, "regression")
    domains = [Domain(name=str(i), data=few) for i in range(2)]
    fitted = Centring().fit([d.data.inputs for d in domains])
    b = build_bank(domains, fitted, max_rows=100, generator=torch.Generator().manual_seed(0))
    batch = sampler(b).draw(30, torch.Generator().manual_seed(0), shots=4)
    assert float(batch.query_targets_EQT.abs().max()) <= 5.0
    assert float(batch.task.prior_bias_EDT.abs().max()) <= 5.0


def test_domain_head_of_a_regression_answers_large_labels_on_average() -> None:
    data = slopes(1, 10)
    years = labelled_set(data.inputs, (data.labels_N + 2000).tolist(), "regression")
    fitted = Centring().fit([years.inputs])
    b = build_bank(
        [Domain(name="s", data=years)], fitted, max_rows=100, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    assert float(b.head_bias_DT) == pytest.approx(float(years.labels_N.double().mean()), abs=1e-3)


def test_subsample_keeps_every_class() -> None:
    labels = torch.tensor([0] * 500 + [1] * 5)
    kept = stratified_subsample(labels, 50, torch.Generator().manual_seed(0))
    assert len(kept) == 50
    assert set(labels[kept].tolist()) == {0, 1}


def test_meta_training_gives_the_same_bytes_for_the_same_seed() -> None:
    first, second = (dump_meta_learner(quick_meta_learner(steps=5)) for _ in range(2))
    assert first == second
    assert first != dump_meta_learner(quick_meta_learner(steps=5, seed=1))


def test_meta_training_lowers_the_held_out_loss() -> None:
    untrained, trained = quick_meta_learner(steps=1).card, quick_meta_learner(steps=60).card
    assert trained["held_out_loss"] < untrained["held_out_loss"]


def test_meta_learner_card_states_gains_with_intervals() -> None:
    card = quick_meta_learner(evaluation_shots=(1, 5)).card
    assert [entry["shots"] for entry in card["episodes"]] == [1, 5]
    low, high = card["episodes"][0]["metric"]["gain"]["interval"]
    assert low <= card["episodes"][0]["metric"]["gain"]["value"] <= high
    assert card["held_out"].startswith("domain ")


def test_meta_learner_survives_save_and_load() -> None:
    learner = quick_meta_learner(steps=3)
    data = dump_meta_learner(learner)
    assert dump_meta_learner(load_meta_learner(data)) == data


@pytest.mark.parametrize("n_domains", [1, 2])
def test_meta_training_works_on_few_domains(n_domains: int) -> None:
    learner = meta_train(
        sources=sources(n_domains=n_domains), featuriser=Centring(), modality="text", encoder="none",
        encoder_revision="0", columns={}, options=quick_options(), seed=0, progress=lambda _f, _p: None,
    )  # fmt: skip
    assert "row in 3" in learner.card["held_out"]


def test_meta_training_refuses_sources_without_episodes() -> None:
    lonely = labelled_set(Features(matrix_NF=torch.randn(2, WIDTH)), ["a", "b"], "classification")
    with pytest.raises(InvalidData, match="two examples"):
        meta_train(
            sources=[Domain(name="s", data=lonely)], featuriser=Centring(), modality="text", encoder="none",
            encoder_revision="0", columns={}, options=quick_options(), seed=0, progress=lambda _f, _p: None,
        )  # fmt: skip


def test_meta_training_refuses_mixed_tasks() -> None:
    mixed = [Domain(name="a", data=blobs(1, 10)), Domain(name="b", data=slopes(2, 20))]
    with pytest.raises(IncompatibleDomain):
        meta_train(
            sources=mixed, featuriser=Centring(), modality="text", encoder="none", encoder_revision="0", columns={},
            options=quick_options(), seed=0, progress=lambda _f, _p: None,
        )  # fmt: skip


def test_adaptation_refuses_sources_of_another_task() -> None:
    with pytest.raises(IncompatibleDomain, match="source1"):
        run("metric", blobs(7, 4), using=[Domain(name="source1", data=slopes(1, 20))])


def test_adaptation_refuses_a_model_worse_than_the_majority() -> None:
    # Twins of opposite labels: whoever is held out is answered with its twin's label.
    generator = torch.Generator().manual_seed(0)
    twins, others = torch.randn(20, 64, generator=generator), torch.randn(30, 64, generator=generator)
    rows = torch.cat([twins, twins + 1e-4, others])
    target = labelled_set(Features(matrix_NF=rows), ["a"] * 20 + ["b"] * 20 + ["a"] * 30, "classification")
    with pytest.raises(UselessModel, match="majority"):
        run("target_only", target, regularisation=1e-3, head="ridge", max_folds=70)


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "empty", "pickle", "other kind"])
def test_artifact_refuses_damaged_bytes(damage: str) -> None:
    data = dump_learner(run("target_only", blobs(7, 4)).learner)
    broken = {
        "truncated": data[:-10],
        "flipped header": data[:20] + b"\xff" + data[21:],
        "empty": b"",
        "pickle": b"\x80\x04\x95" + b"0" * 100,
        "other kind": dump_meta_learner(quick_meta_learner(steps=1)),
    }[damage]
    with pytest.raises(InvalidArtifact):
        load_learner(broken)


def test_artifact_header_reads_without_tensors() -> None:
    header = read_header(dump_learner(run("target_only", blobs(7, 4)).learner))
    assert header["kind"] == "base_learner"
    assert header["classes"] == ["bad", "fine", "good"]


def test_card_sees_nothing_in_labels_that_are_noise_even_when_features_are_many() -> None:
    # 200 features tell 40 rows apart however they are labelled; only rows kept apart show that nothing was learned.
    def noise(seed: int) -> Domain:
        rows = torch.randn(40, 200, generator=torch.Generator().manual_seed(seed))
        return Domain(name=str(seed), data=labelled_set(Features(matrix_NF=rows), ["a", "b"] * 20, "classification"))

    learner = meta_train(
        sources=[noise(seed) for seed in range(4)], featuriser=Centring(), modality="text", encoder="none",
        encoder_revision="0", columns={}, options=quick_options(evaluation_shots=(5,)), seed=0,
        progress=lambda _f, _p: None,
    )  # fmt: skip
    for strategy in ("target_only", "metric", "init"):
        assert 0.35 < learner.card["episodes"][0][strategy]["score"] < 0.65


def test_shrunk_covariance_approaches_the_sample_when_rows_are_many() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 2.0, 3.0])
    many, few = (scales * torch.randn(n, 3, generator=generator).double() for n in (5000, 4))
    assert torch.allclose(shrunk_covariance(many).diagonal(), scales.double().square(), rtol=0.1)
    off_diagonal = shrunk_covariance(few) - torch.diag(shrunk_covariance(few).diagonal())
    sample = few.T @ few / 4
    assert off_diagonal.abs().sum() < (sample - torch.diag(sample.diagonal())).abs().sum()


def test_report_names_source_rows_by_their_place_in_the_whole_dataset() -> None:
    data = blobs(1, 30)
    even_N = torch.arange(0, len(data), 2)
    part = Domain(name="s", data=data.select(even_N), rows_N=even_N)
    top = run("metric", blobs(7, 4), using=[part]).report["sources"][0]["top_examples"]
    assert len(top) == 5
    assert all(entry["example"] % 2 == 0 for entry in top)
    assert max(entry["example"] for entry in top) > len(even_N) // 2


def test_cross_fitted_metric_of_a_domain_does_not_change_with_that_domain() -> None:
    b = bank()
    moved_NF = torch.where((b.domain_N == 1)[:, None], -3 * b.features_NF, b.features_NF)
    everything_N = torch.ones(len(b.labels_N), dtype=torch.bool)
    before = cross_fitted(b, everything_N, 4)
    after = cross_fitted(replace(b, features_NF=moved_NF), everything_N, 4)
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0])


def test_episodes_of_a_single_domain_never_meet_the_classes_of_its_metric() -> None:
    domain = Domain(name="s", data=blobs(1, 8, classes=tuple("abcdefghijkl")))
    fitted = Centring().fit([domain.data.inputs])
    b = build_bank([domain], fitted, max_rows=1000, generator=torch.Generator().manual_seed(0))
    split = split_sources(b, EpisodeOptions(), torch.Generator().manual_seed(0))
    parts = [split.metric_rows_N, split.train.pool_N, split.held_out.pool_N]
    classes = [set(b.labels_N[rows_N].tolist()) for rows_N in parts]
    assert all(classes)
    assert sum(map(len, classes)) == len(set.union(*classes))
