"""Rows as exported models read them: to the last bit as the featuriser does."""

from typing import cast

import numpy as np
import pytest

from learning.encoders.columns import Kind, table_from_columns
from learning.encoders.tabular import QuantileFeaturiser
from learning.onnx.bundle import column_header
from learning.standalone.table_reading import table_features
from learning.types import Table

KINDS = {"size": "numeric", "town": "categorical", "code": "categorical", "flag": "numeric"}
CELLS = [
    1.5, -0.0, 1e300, -1e-300, 7, True, False, None, float("nan"), "", " NA ", "none", "3", "3.0", " 4e2 ", "Ulm",
    "ulm", "true", "0", "?",
]  # fmt: skip


def fitted(*, standard: bool):
    """On two tables that disagree about which columns are numbers, with gaps, rare categories and a column apart."""
    random = np.random.default_rng(0)
    first = Table(
        numeric={"size": random.normal(size=150), "code": np.arange(150.0), "flag": np.full(150, np.nan)},
        categorical={"town": np.array(["Ulm", None, "3"] * 50, dtype=object)},
    )
    second = Table(
        numeric={"size": np.array([np.nan, 1.0]), "flag": np.array([1.0, 0.0]), "apart": np.ones(2)},
        categorical={"code": np.array(["3.0", "true"], dtype=object)},
    )
    return QuantileFeaturiser(standard=standard).fit([first, second])


def readable(name: str, cell: object) -> bool:
    return KINDS[name] == "categorical" or cell not in {"Ulm", "ulm"}


@pytest.mark.parametrize("standard", [False, True])
def test_table_features_equal_what_the_featuriser_reads(standard):
    featuriser = fitted(standard=standard)
    rows: list[dict[str, object]] = [{name: cell} for name in KINDS for cell in CELLS if readable(name, cell)]
    rows.append({"size": 2.0, "town": "3", "code": 3, "flag": "false", "unknown": object()})
    columns = {name: [row.get(name) for row in rows] for name in KINDS}
    expected = featuriser.read(table_from_columns(columns, cast("dict[str, Kind]", KINDS)))
    found = table_features(rows, KINDS, [column_header(column) for column in featuriser.columns])
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize(("row", "message"), [
    ({"size": "large"}, "column 'size': 'large' is not a finite number"),
    ({"size": "1_000"}, "is not a finite number"),
    ({"size": float("inf")}, "is not a finite number"),
    ({"colour": 3}, "a row has none of the model's columns: size, town, code, flag"),
])  # fmt: skip
def test_table_features_name_what_is_wrong_when_a_row_cannot_be_read(row, message):
    headers = [column_header(column) for column in fitted(standard=False).columns]
    with pytest.raises(ValueError, match=message):
        table_features([row], KINDS, headers)
