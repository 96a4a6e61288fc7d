import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.encoders.tabular import FittedQuantileFeaturiser, QuantileFeaturiser, table_from_columns
from learning.errors import InvalidArtifact, InvalidData
from learning.types import Features, Featuriser, FittedFeaturiser, Table


def numeric_table(**columns) -> Table:
    return table_from_columns(columns, dict.fromkeys(columns, "numeric"))


def categorical_table(**columns) -> Table:
    return table_from_columns(columns, dict.fromkeys(columns, "categorical"))


def mixed_table(n_rows: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    income = np.exp(rng.normal(size=n_rows))
    income[:: max(2, n_rows // 5)] = np.nan
    town = [["Ulm", "Bonn", None][i] for i in rng.integers(0, 3, n_rows)]
    return table_from_columns(
        {"age": rng.integers(18, 80, n_rows).tolist(), "income": income.tolist(), "town": town},
        {"age": "numeric", "income": "numeric", "town": "categorical"},
    )


def restored(fitted: FittedQuantileFeaturiser) -> FittedQuantileFeaturiser:
    tensors, header = fitted.state()
    return FittedQuantileFeaturiser.from_state(tensors, json.loads(json.dumps(header)))


def test_featuriser_fulfils_the_protocols_when_fitted():
    featuriser: Featuriser = QuantileFeaturiser()
    fitted: FittedFeaturiser = featuriser.fit([mixed_table(20, 0)])
    rows_NF = fitted.transform(mixed_table(7, 1))
    assert rows_NF.shape == (7, fitted.width)
    assert rows_NF.dtype == torch.float32


@pytest.mark.parametrize("n_rows", [2, 5, 30, 1000])
def test_numeric_column_keeps_the_order_when_rows_are_few_or_many(n_rows):
    values = np.sort(np.random.default_rng(n_rows).standard_cauchy(n_rows)).tolist()
    table = numeric_table(x=values)
    scores = QuantileFeaturiser().fit([table]).transform(table)[:, 0]
    assert (scores.diff() >= 0).all()
    assert scores[-1] > scores[0]


def test_numeric_column_becomes_nearly_normal_when_a_skewed_column_has_many_rows():
    table = numeric_table(x=np.exp(2 * np.random.default_rng(0).normal(size=4000)).tolist())
    scores = QuantileFeaturiser().fit([table]).transform(table)[:, 0]
    expected = torch.special.ndtri(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    assert torch.allclose(scores.quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])), expected, atol=0.06)


def test_numeric_column_follows_the_z_score_when_there_are_two_rows():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[0.0, 1.0])])
    scores = fitted.transform(numeric_table(x=[0.0, 0.5, 1.0, 1.5]))[:, 0]
    assert scores[1] == 0
    assert scores[3] > scores[2] > 0.9


def test_numeric_scores_stay_within_three_when_values_lie_far_outside():
    fitted = QuantileFeaturiser().fit([numeric_table(x=list(range(50)))])
    scores = fitted.transform(numeric_table(x=[-1e300, 1e300]))
    assert (scores.abs() <= 3).all()
    assert scores[0, 0] < -2 < 2 < scores[1, 0]


def test_numeric_column_is_zero_when_it_was_constant_at_fit_time():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[7, 7, 7], y=[1, 2, 3])])
    assert (fitted.transform(numeric_table(x=[7, 8, -1e9]))[:, 0] == 0).all()


def test_numeric_column_has_an_indicator_only_when_it_had_gaps_at_fit_time():
    assert QuantileFeaturiser().fit([numeric_table(x=[1, 2, 3])]).width == 1
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, None, 3])])
    assert fitted.transform(numeric_table(x=[None, 2])).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_categorical_column_is_one_hot_over_the_union_when_tables_differ():
    fitted = QuantileFeaturiser().fit([categorical_table(c=["a", "b"]), categorical_table(c=["b", "z"])])
    assert fitted.transform(categorical_table(c=["b", "a", "z"])).tolist() == torch.eye(3).tolist()


def test_categorical_column_is_all_zeros_when_the_value_was_never_seen():
    fitted = QuantileFeaturiser().fit([categorical_table(c=["a", "b"])])
    assert fitted.transform(categorical_table(c=["new", None])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_categorical_column_has_its_own_missing_feature_when_gaps_were_seen():
    fitted = QuantileFeaturiser().fit([categorical_table(c=["a", None])])
    assert fitted.transform(categorical_table(c=["a", None, "new"])).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_categorical_column_pools_rare_values_when_there_are_more_than_a_hundred():
    values = [f"v{i}" for i in range(150)] + [f"v{i}" for i in range(100)]
    fitted = QuantileFeaturiser().fit([categorical_table(c=values)])
    rows_NF = fitted.transform(categorical_table(c=["v5", "v149"]))
    assert fitted.width == 101
    assert rows_NF[:, 100].tolist() == [0.0, 1.0]


def test_column_is_categorical_in_both_when_numeric_in_one_and_text_in_another():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2]), categorical_table(x=["2.0", "many"])])
    from_number, from_text = fitted.transform(numeric_table(x=[2])), fitted.transform(categorical_table(x=["2"]))
    assert torch.equal(from_number, from_text)
    assert from_number.sum() == 1
    assert fitted.alignment == ["column 'x' is numeric in table 1 but categorical in table 2"]


def test_column_stays_numeric_when_the_only_text_column_of_that_name_is_empty():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2]), categorical_table(x=[None, ""])])
    assert fitted.transform(numeric_table(x=[2]))[0, 0] > 0


def test_alignment_says_where_a_column_is_absent_when_schemas_differ():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2]), numeric_table(x=[3], y=[4]), numeric_table(x=[5])])
    assert fitted.alignment == ["column 'y' is absent from tables 1, 3 of 3 and counts as missing there"]


def test_alignment_is_empty_when_all_tables_share_their_columns():
    assert QuantileFeaturiser().fit([mixed_table(9, 0), mixed_table(9, 1)]).alignment == []


def test_column_is_left_out_and_noted_when_it_has_no_value_anywhere():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2], y=[None, None])])
    assert fitted.width == 1
    assert fitted.alignment == ["column 'y' has no value anywhere and is left out"]


def test_transform_counts_a_column_as_missing_when_the_table_lacks_it():
    fitted = QuantileFeaturiser().fit([mixed_table(20, 0)])
    absent = fitted.transform(numeric_table(age=[30]))
    columns: dict[str, list[object]] = {"age": [30], "income": [None], "town": [None]}
    missing = fitted.transform(
        table_from_columns(columns, {"age": "numeric", "income": "numeric", "town": "categorical"})
    )
    assert torch.equal(absent, missing)


def test_transform_ignores_columns_when_they_are_unknown():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2])])
    with_extra = fitted.transform(numeric_table(x=[1], extra=[9]))
    assert torch.equal(with_extra, fitted.transform(numeric_table(x=[1])))


def test_transform_refuses_when_no_column_is_known():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2])])
    with pytest.raises(InvalidData, match="none of the columns"):
        fitted.transform(numeric_table(y=[1]))


def test_transform_names_column_and_row_when_text_meets_a_numeric_column():
    fitted = QuantileFeaturiser().fit([numeric_table(x=[1, 2])])
    with pytest.raises(InvalidData, match="column 'x', row 2: 'many' is not a finite number"):
        fitted.transform(categorical_table(x=["1.5", "many"]))


def test_transform_does_not_depend_on_other_rows_when_rows_are_transformed_alone():
    table = mixed_table(12, 3)
    fitted = QuantileFeaturiser(random_fourier=8).fit([table])
    alone = torch.cat([fitted.transform(table.select(torch.tensor([row]))) for row in range(12)])
    assert torch.allclose(fitted.transform(table), alone, atol=1e-6)


def test_fit_gives_the_same_features_when_rows_are_shuffled():
    table = mixed_table(40, 4)
    shuffled = table.select(torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    one, other = QuantileFeaturiser().fit([table]), QuantileFeaturiser().fit([shuffled])
    assert torch.equal(one.transform(table), other.transform(table))


@pytest.mark.parametrize("random_fourier", [0, 512])
def test_rows_have_about_unit_mean_squared_norm_when_fitted_on_many_columns(random_fourier):
    rng = np.random.default_rng(0)
    numbers = {f"x{i}": rng.gamma(1.5, size=300).tolist() for i in range(12)}
    table = numeric_table(**numbers)
    rows_NF = QuantileFeaturiser(random_fourier=random_fourier).fit([table]).transform(table)
    assert rows_NF.square().sum(dim=1).mean().item() == pytest.approx(1.0, abs=0.15)


def test_random_fourier_features_approximate_the_gaussian_kernel_when_there_are_many():
    table = numeric_table(x=[0, 1, 2, 5], y=[3, 1, 4, 1])
    plain_NF = QuantileFeaturiser().fit([table]).transform(table)
    waves_NR = QuantileFeaturiser(random_fourier=20_000).fit([table]).transform(table)[:, 2:] * math.sqrt(2)
    kernel_NN = torch.exp(-0.5 * torch.cdist(plain_NF, plain_NF).square())
    assert torch.allclose(waves_NR @ waves_NR.T, kernel_NN, atol=0.04)


def test_random_fourier_features_repeat_only_when_the_seed_does():
    table = mixed_table(10, 0)
    first, same, different = (
        QuantileFeaturiser(random_fourier=4, seed=seed).fit([table]).transform(table) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, different)


@pytest.mark.parametrize("random_fourier", [0, 6])
def test_state_restores_the_same_map_exactly_when_round_tripped(random_fourier):
    fitted = QuantileFeaturiser(random_fourier=random_fourier).fit([mixed_table(200, 0), numeric_table(z=[1, 2])])
    again = restored(fitted)
    assert torch.equal(again.transform(mixed_table(30, 1)), fitted.transform(mixed_table(30, 1)))
    assert (again.width, again.alignment) == (fitted.width, fitted.alignment)
    assert again.state()[1] == fitted.state()[1]


@pytest.mark.parametrize("damage", ["columns", "alignment"])
def test_from_state_refuses_when_the_header_is_incomplete(damage):
    tensors, header = QuantileFeaturiser().fit([mixed_table(9, 0)]).state()
    with pytest.raises(InvalidArtifact, match="damaged"):
        FittedQuantileFeaturiser.from_state(tensors, {key: value for key, value in header.items() if key != damage})


@pytest.mark.parametrize("damage", ["knots", "scores", "fourier_weight"])
def test_from_state_refuses_when_a_tensor_has_the_wrong_length(damage):
    tensors, header = QuantileFeaturiser(random_fourier=2).fit([mixed_table(9, 0)]).state()
    with pytest.raises(InvalidArtifact, match="damaged"):
        FittedQuantileFeaturiser.from_state({**tensors, damage: tensors[damage][1:]}, header)


@pytest.mark.parametrize("parts", [[], [numeric_table(x=[None])], [numeric_table(x=[])]])
def test_fit_refuses_when_there_is_no_value_at_all(parts):
    with pytest.raises(InvalidData, match="no column of the table has a value"):
        QuantileFeaturiser().fit(parts)


def test_fit_refuses_when_a_part_is_no_table():
    with pytest.raises(InvalidData, match="takes a table, got Features"):
        QuantileFeaturiser().fit([Features(matrix_NF=torch.zeros(2, 3))])


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200),
    queries=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50),
)
def test_numeric_scores_are_finite_bounded_and_monotone_when_values_are_arbitrary(values, queries):
    fitted = QuantileFeaturiser().fit([numeric_table(x=[*values, 1.0])])
    scores = fitted.transform(numeric_table(x=sorted(queries)))[:, 0]
    assert scores.isfinite().all()
    assert (scores.abs() <= 3).all()
    assert (scores.diff() >= -1e-6).all()


def test_table_from_columns_reads_numbers_and_gaps_when_given_text():
    table = table_from_columns({"x": ["3.5", " -1e3 ", "", "NA", None, "nan", True, "False", 2]}, {"x": "numeric"})
    expected = [3.5, -1000.0, math.nan, math.nan, math.nan, math.nan, 1.0, 0.0, 2.0]
    assert np.array_equal(table.numeric["x"], expected, equal_nan=True)


def test_table_from_columns_turns_values_into_text_when_a_column_is_categorical():
    table = table_from_columns({"c": ["a ", 3, 3.0, True, None, "N/A", math.nan]}, {"c": "categorical"})
    assert table.categorical["c"].tolist() == ["a", "3", "3", "true", None, None, None]


@pytest.mark.parametrize("value", ["many", "1_000", "inf", float("inf"), 10**400, [1], "1e999"])
def test_table_from_columns_names_column_and_row_when_a_value_is_no_number(value):
    with pytest.raises(InvalidData, match=r"column 'price', row 3: .* is not a finite number"):
        table_from_columns({"price": [1, 2, value]}, {"price": "numeric"})


def test_table_from_columns_leaves_a_column_out_when_its_kind_is_unknown():
    table = table_from_columns({"x": [1], "note": ["hi"]}, {"x": "numeric"})
    assert list(table.numeric) == ["x"]
    assert not table.categorical


def test_table_from_columns_refuses_when_no_column_has_a_kind():
    with pytest.raises(InvalidData, match="no column of a known kind"):
        table_from_columns({"note": ["hi"]}, {"x": "numeric"})


def test_table_from_columns_refuses_when_columns_differ_in_length():
    with pytest.raises(InvalidData, match="one common length"):
        table_from_columns({"x": [1], "y": [1, 2]}, {"x": "numeric", "y": "numeric"})


def test_rescaling_gives_a_column_that_was_hardly_filled_the_scale_of_the_rows_that_fill_it():
    sources = numeric_table(age=[40.0, 50.0, 60.0, 70.0], vessels=[1.0, float("nan"), float("nan"), float("nan")])
    target = numeric_table(age=[45.0, 55.0], vessels=[0.0, 3.0])
    fitted = QuantileFeaturiser().fit([sources])
    rescaled = fitted.rescaled([sources, target])
    assert rescaled.width == fitted.width
    vessels = [column.name for column in fitted.columns].index("vessels")
    place = sum(column.width for column in fitted.columns[:vessels])
    assert torch.equal(*fitted.transform(target)[:, place])
    low, high = rescaled.transform(target)[:, place]
    assert low < 0 < high


def test_rescaling_leaves_a_column_alone_that_the_tables_do_not_have():
    fitted = QuantileFeaturiser().fit([mixed_table(20, 0)])
    rescaled = fitted.rescaled([numeric_table(age=[30.0, 31.0, 99.0])])
    assert rescaled.columns[1:] == fitted.columns[1:]
