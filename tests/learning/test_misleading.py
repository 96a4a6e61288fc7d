"""Whether what sources say of the target's rows tells that they mislead."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learning.config import AutoOptions
from learning.context import TransferContext, make_context
from learning.featurisers import Centring
from learning.guard import DOUBT, MISLEADING
from learning.misleading import misleading_probability, posterior
from learning.task import TransferTask, explained_nats
from learning.types import Domain, LabelledSet
from tests.learning.problems import blobs, run, slopes, sources


def context(domains: Sequence[Domain], target: LabelledSet) -> TransferContext | None:
    generator = torch.Generator().manual_seed(0)
    return make_context(domains, Centring(), AutoOptions(), None, generator, target=target.inputs)


def relabelled(domain: Domain, labels_N: Tensor) -> Domain:
    return replace(domain, data=replace(domain.data, labels_N=labels_N))


def flipped(domain: Domain) -> Domain:
    return relabelled(domain, (domain.data.labels_N + 1) % len(domain.data.classes))


def permuted(domain: Domain, seed: int) -> Domain:
    order_N = torch.randperm(len(domain.data), generator=torch.Generator().manual_seed(seed))
    return relabelled(domain, domain.data.labels_N[order_N])


def probability(domains: Sequence[Domain], support: LabelledSet) -> float:
    found = misleading_probability(context(domains, support), support)
    assert found is not None
    return found


def test_honest_sources_are_trusted_flipped_ones_are_not_and_noise_says_next_to_nothing() -> None:
    honest, support = sources(), blobs(50, 8)
    assert probability(honest, support) < 0.02
    assert probability([flipped(domain) for domain in honest], support) > 0.95
    noise = [[permuted(domain, 10 * draw + i) for i, domain in enumerate(honest)] for draw in range(5)]
    assert 0.02 < statistics.median(probability(domains, support) for domains in noise) < 0.95


def test_one_honest_domain_speaks_for_all() -> None:
    honest = sources()
    assert probability([honest[0], *map(flipped, honest[1:])], blobs(50, 8)) < 0.02


def test_more_rows_tell_more() -> None:
    few, many = ([probability(made, blobs(50, shots)) for made in (sources(), [*map(flipped, sources())])]
                 for shots in (1, 4))  # fmt: skip
    assert many[0] < few[0] < MISLEADING < few[1] < many[1]


def test_a_domain_is_asked_about_the_classes_that_it_knows() -> None:
    """Of a third class it cannot know that a row is not one of its two."""
    head = [[3.0], [-3.0], [0.0]]
    both = explained_nats(one_domain([1.0, -1.0], [0, 1], head))
    with_a_stranger = explained_nats(one_domain([1.0, -1.0, 1.0], [0, 1, 2], head))
    assert float(with_a_stranger) == pytest.approx(float(both))


def one_domain(rows_S: list[float], labels_S: list[int], head_TF: list[list[float]]) -> TransferTask:
    """A support of one feature and the head of one domain; a class whose weights are all zero is unknown to it."""
    nothing = torch.zeros(1, 0, dtype=torch.float64)
    n_way = len(head_TF)
    return TransferTask(
        support_ESF=torch.tensor(rows_S, dtype=torch.float64)[None, :, None],
        support_targets_EST=torch.nn.functional.one_hot(torch.tensor(labels_S), n_way).double()[None],
        source_EMF=nothing[..., None],
        source_targets_EMT=torch.zeros(1, 0, n_way, dtype=torch.float64),
        source_usable_EM=nothing,
        source_domain_EM=nothing.long(),
        prior_EDTF=torch.tensor(head_TF, dtype=torch.float64)[None, None],
        prior_bias_EDT=torch.zeros(1, 1, n_way, dtype=torch.float64),
        known_ED=torch.ones(1, 1, dtype=torch.float64),
        classification=True,
    )


def test_labels_tell_nothing_of_a_regression_or_of_classes_that_no_source_names() -> None:
    numbers, other = slopes(3, 20), blobs(50, 4, classes=("x", "y", "z"))
    assert misleading_probability(context(sources("regression"), numbers), numbers) is None
    assert misleading_probability(context(sources(), other), other) is None
    assert misleading_probability(None, other) is None


def test_the_posterior_is_the_prior_where_guessing_explains_the_rows_as_well() -> None:
    assert posterior(0.0) == pytest.approx(MISLEADING)
    assert posterior(1e9) == pytest.approx(0.0, abs=1e-12)
    assert posterior(-1e9) == 1.0
    assert not math.isnan(posterior(-math.inf))


@pytest.mark.parametrize("honest", [True, False])
def test_the_report_warns_of_sources_that_seem_to_mislead(honest: bool) -> None:
    made = sources() if honest else [flipped(domain) for domain in sources()]
    found = run("auto", blobs(50, 8), using=made).report
    assert ("misleading_sources" in {warning["code"] for warning in found["warnings"]}) != honest
    assert honest or found["strategy"] == "target_only"


@pytest.mark.parametrize(("missed", "doubted"), [(0, False), (1, False), (2, True)])
def test_one_confident_miss_of_two_rows_is_no_doubt_yet(missed: int, doubted: bool) -> None:
    """An honest head of accuracy .8 misses one of two rows every third time."""
    labels = [1 - label if place < missed else label for place, label in enumerate((0, 1))]
    task = one_domain([1.0, -1.0], labels, [[3.0], [-3.0]])
    assert (posterior(float(explained_nats(task))) > DOUBT) == doubted
