"""Adaptation of tables whose columns differ between domains."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from learning.adaptation import Adaptation, adapt
from learning.config import STRATEGIES
from learning.encoders.tabular import QuantileFeaturiser
from learning.errors import InvalidData
from learning.types import Domain, LabelledSet, Table, labelled_set


def table(names: Sequence[str], *, seed: int, n: int = 24) -> LabelledSet:
    """Every column tells the two classes apart a little."""
    random = np.random.default_rng(seed)
    labels = ["no", "yes"] * (n // 2)
    numeric = {name: random.normal([2.0 * (label == "yes") for label in labels]) for name in names}
    return labelled_set(Table(numeric=numeric, categorical={}), labels, "classification")


def adapted(strategy: str, target: LabelledSet, *sources: LabelledSet) -> Adaptation:
    return adapt(
        target=Domain(name="t", data=target), featuriser=QuantileFeaturiser(),
        sources=[Domain(name=f"s{i}", data=source) for i, source in enumerate(sources)],
        modality="tabular", encoder="quantile", encoder_revision="", columns={}, strategy=strategy,
        options=STRATEGIES[strategy](), meta_learner=None, seed=0, progress=lambda _f, _p: None,
    )  # fmt: skip


def warnings(adaptation: Adaptation, code: str) -> list[dict[str, Any]]:
    return [warning for warning in adaptation.report["warnings"] if warning["code"] == code]


def test_auto_transfers_nothing_when_no_column_is_shared() -> None:
    adaptation = adapted("auto", table("ab", seed=0), table("xy", seed=1))
    assert adaptation.report["strategy"] == "target_only"
    assert warnings(adaptation, "no_common_columns")


def test_metric_is_refused_when_no_column_is_shared() -> None:
    with pytest.raises(InvalidData, match="none of the columns"):
        adapted("metric", table("ab", seed=0), table("xy", seed=1))


def test_report_names_the_columns_that_only_the_target_has() -> None:
    adaptation = adapted("metric", table("abc", seed=0), table("ab", seed=1))
    assert any("No source has c:" in warning["message"] for warning in warnings(adaptation, "column_alignment"))


def test_a_blend_of_tables_answers_the_weighted_mean_of_its_members() -> None:
    """Both members read one kernel and one forest, so that the mean of their heads is the mean of their answers."""
    target, queries = table("abc", seed=0, n=8), table("abc", seed=9).inputs
    sources = [table("abc", seed=seed, n=60) for seed in (1, 2, 3)]
    both = adapted("auto", target, *sources)
    shares = both.report["blend"]
    assert set(shares) == {"metric", "init"}
    parts = {name: adapted(name, target, *sources).learner for name in shares}
    expected = sum(
        share * parts[name].pipeline.outputs(queries) / parts[name].temperature for name, share in shares.items()
    )
    torch.testing.assert_close(both.learner.pipeline.outputs(queries), expected, rtol=1e-4, atol=1e-4)
