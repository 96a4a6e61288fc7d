"""Whose word counts on what transferring gains."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from learning.config import AutoOptions, MetricOptions, StrategyOptions
from learning.context import make_context
from learning.expectation import expectation
from learning.featurisers import Centring
from learning.meta import MetaLearner
from learning.types import Domain
from tests.learning.problems import accuracy, blobs, noisy, quick_meta_learner, run, sources


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    return quick_meta_learner(steps=2)


def honest() -> list[Domain]:
    generator = torch.Generator().manual_seed(0)
    return [noisy(domain, generator) for domain in sources()]


def permuted(domain: Domain, seed: int) -> Domain:
    """Its labels dealt to its rows anew."""
    order_N = torch.randperm(len(domain.data), generator=torch.Generator().manual_seed(seed))
    return replace(domain, data=replace(domain.data, labels_N=domain.data.labels_N[order_N]))


def mislabelled() -> list[Domain]:
    return [permuted(domain, seed) for seed, domain in enumerate(honest())]


def promising(learner: MetaLearner) -> MetaLearner:
    """Its card says .05 at any number of shots, give or take .02."""
    told = {"score": 0.8, "gain": {"value": 0.05, "interval": [0.03, 0.07], "deviation": 0.05}}
    episodes = [{"shots": shots, "metric": told, "init": told} for shots in (1, 9)]
    return replace(learner, card={"measure": "accuracy", "episodes": episodes})


def card(
    domains: Sequence[Domain],
    learner: MetaLearner | None,
    *,
    options: StrategyOptions | None = None,
    classes: Sequence[str] = ("bad", "fine", "good"),
) -> Any:
    support = blobs(50, 3, classes=classes)
    generator = torch.Generator().manual_seed(0)
    asked = options or AutoOptions()
    context = make_context(domains, Centring(), asked, learner, generator, target=support.inputs)
    return expectation(asked, context, support, learner, 0)


def test_the_meta_learner_is_believed_unless_the_sources_refute_it(learner: MetaLearner) -> None:
    trusted = promising(learner)
    assert card(honest(), trusted) is trusted.card
    found = card(mislabelled(), trusted)
    assert found is not trusted.card
    assert found["episodes"][0]["init"]["gain"]["interval"][1] < 0.03


def test_without_a_meta_learner_the_sources_speak_for_themselves() -> None:
    assert card(honest(), None)["meta_trained"] is False


@pytest.mark.parametrize(
    ("options", "classes"), [(MetricOptions(), ("bad", "fine", "good")), (AutoOptions(), ("x", "y", "z"))]
)
def test_sources_are_not_asked_where_nothing_is_to_be_judged_by_them(
    learner: MetaLearner, options: StrategyOptions, classes: Sequence[str]
) -> None:
    assert card(mislabelled(), promising(learner), options=options, classes=classes)["episodes"][0]["shots"] == 1
    assert card(mislabelled(), None, options=options, classes=classes) is None


def test_the_report_says_who_was_believed_and_mislabelled_sources_do_no_harm(learner: MetaLearner) -> None:
    target, queries = blobs(51, 3, shift=1.0), blobs(51, 60, shift=1.0)
    found = run("auto", target, using=mislabelled(), meta_learner=promising(learner))
    assert found.report["expected_gain"]["from"] == "sources"
    assert run("auto", target, using=honest(), meta_learner=promising(learner)).report["expected_gain"]["from"] == (
        "meta_learner"
    )
    assert accuracy(found, queries) >= accuracy(run("target_only", target), queries) - 0.02
