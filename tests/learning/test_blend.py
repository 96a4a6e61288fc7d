"""Averaging the transfer learners."""

from typing import Any

import pytest
import torch

from learning.types import Domain
from tests.learning.problems import blobs, noisy, run, slopes, sources


def outputs(adaptation: Any, inputs: Any) -> torch.Tensor:
    found: torch.Tensor = adaptation.learner.pipeline.outputs(inputs)
    return found


def test_blend_answers_the_weighted_mean_of_its_members_logits() -> None:
    generator = torch.Generator().manual_seed(3)
    using = [noisy(domain, generator) for domain in sources()]
    target = noisy(Domain(name="target", data=blobs(7, 4)), generator).data
    queries = noisy(Domain(name="queries", data=blobs(7, 20)), generator).data.inputs
    both = run("auto", target, using=using)
    shares = both.report["blend"]
    assert set(shares) == {"metric", "init"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares[both.report["strategy"]] == max(shares.values())
    parts = {name: run(name, target, using=using) for name in shares}
    expected = sum(
        share * outputs(parts[name], queries) / parts[name].learner.temperature for name, share in shares.items()
    )
    torch.testing.assert_close(outputs(both, queries), expected, rtol=1e-4, atol=1e-4)


def test_blend_of_a_regression_averages_values_and_keeps_its_intervals() -> None:
    both = run("auto", slopes(9, 12), using=sources("regression"))
    assert set(both.report["blend"]) == {"metric", "init"}
    assert both.learner.held_out_heads is not None
    queries = slopes(10, 30).inputs
    values_Q, intervals_Q2 = both.learner.predict(queries).values_Q, both.learner.predict(queries).intervals_Q2
    assert values_Q is not None
    assert intervals_Q2 is not None
    assert bool((intervals_Q2[:, 0] < values_Q).all())
    assert bool((values_Q < intervals_Q2[:, 1]).all())


def test_sole_transfer_candidate_is_not_blended() -> None:
    generator = torch.Generator().manual_seed(3)
    using = [noisy(domain, generator) for domain in sources()]
    target = noisy(Domain(name="target", data=blobs(7, 4)), generator).data
    found = run("auto", target, using=using, candidates=("target_only", "metric"))
    assert found.report["strategy"] == "metric"
    assert found.report["blend"] is None


@pytest.mark.parametrize("name", ["metric", "init"])
def test_strategy_asked_for_by_name_is_not_blended(name: str) -> None:
    assert run(name, blobs(7, 4), using=sources()).report["blend"] is None
