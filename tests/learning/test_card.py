"""What sources promise where no meta-learner speaks for them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from learning.card import MOST_SUPPORT_ROWS, card_of_sources
from learning.featurisers import Centring
from learning.parameters import default_parameters
from learning.sources import SourceBank, build_bank
from learning.types import Domain, Task
from tests.learning.problems import noisy, sources


def bank(domains: Sequence[Domain]) -> SourceBank:
    fitted = Centring().fit([domain.data.inputs for domain in domains])
    return build_bank(domains, fitted, max_rows=500, generator=torch.Generator().manual_seed(0))


def episode(domains: Sequence[Domain], shots: int = 4, ways: int = 3) -> dict[str, Any]:
    made = bank(domains)
    card = card_of_sources(
        made, default_parameters(made.width), similarity="cosine", shots=shots, ways=ways, seed=0
    )  # fmt: skip
    assert card is not None
    (only,) = card["episodes"]
    return dict(only)


def permuted(domain: Domain, seed: int) -> Domain:
    """Every class under a name of its own choice: learnable, but of no use to the others."""
    order = torch.randperm(len(domain.data.classes), generator=torch.Generator().manual_seed(seed))
    return replace(domain, data=replace(domain.data, labels_N=order[domain.data.labels_N]))


def test_sources_that_help_each_other_promise_a_gain_and_those_that_do_not_promise_a_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = [noisy(domain, generator) for domain in sources()]
    unlike = [permuted(domain, seed) for seed, domain in enumerate(honest)]
    for strategy in ("metric", "init"):
        assert episode(honest)[strategy]["gain"]["interval"][0] > 0
        assert episode(unlike)[strategy]["gain"]["value"] < 0


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_card_is_at_the_shots_of_the_job_and_repeats_itself(task: Task) -> None:
    domains = sources(task)
    first = episode(domains, shots=5)
    assert (first["shots"], first["n_episodes"]) == (5, 30)
    assert episode(domains, shots=5) == first


def test_more_ways_than_the_sources_have_classes_are_played_with_those_they_have() -> None:
    assert episode(sources(), ways=10)["target_only"]["score"] > 1 / 3


def test_a_single_source_promises_nothing() -> None:
    alone = bank(sources(n_domains=1))
    found = card_of_sources(alone, default_parameters(alone.width), similarity="cosine", shots=4, ways=3, seed=0)
    assert found is None


@pytest.mark.parametrize(("over", "made"), [(0, True), (1, False)])
def test_a_large_support_is_left_to_its_own_rows(over: int, made: bool) -> None:
    several = bank(sources())
    card = card_of_sources(
        several, default_parameters(several.width), similarity="cosine", shots=MOST_SUPPORT_ROWS // 2 + over, ways=2,
        seed=0,
    )  # fmt: skip
    assert (card is not None) == made
