"""What is inferred from a table that says nothing about itself, and what is asked for instead."""

from pathlib import Path
from typing import Any

import pytest

from app.datasets.findings import Findings
from app.datasets.formats.csv_file import CsvTable
from app.datasets.infer import Plan, infer
from app.datasets.profile import profile_table
from app.datasets.schemas import UploadForm
from app.errors import InvalidInput
from app.settings import Settings

REVIEWS = "this is good\nnothing to see here\nan honest piece of work\nnot bad at all"


def plan(tmp_path: Path, text: str, **form: Any) -> Plan:
    path = tmp_path / "file.csv"
    path.write_text(text)
    settings = Settings(data_dir=tmp_path)
    profile = profile_table(CsvTable(path, settings), settings, Findings())
    return infer(profile, UploadForm(name="some", **form))


def table(header: str, *columns: str) -> str:
    """CSV with the given columns, each written as its cells with blanks between."""
    return "\n".join([header, *(",".join(row) for row in zip(*(column.split() for column in columns), strict=True))])


def texts(header: str, labels: str, *, label_first: bool = False) -> str:
    rows = zip(REVIEWS.splitlines(), labels.split(), strict=True)
    return "\n".join([header, *(f"{label},{text}" if label_first else f"{text},{label}" for text, label in rows)])


@pytest.mark.parametrize("name", ["label", "Target", "CLASS", "y", "category"])
def test_label_is_found_by_name(tmp_path: Path, name: str) -> None:
    assert plan(tmp_path, table(f"a,{name},b", "1 2", "3 4", "5 6")).label == name


def test_label_goes_by_the_more_telling_name_when_two_would_do(tmp_path: Path) -> None:
    assert plan(tmp_path, table("category,x,label", "a b", "1 2", "c d")).label == "label"


def test_label_is_the_last_column_when_its_values_repeat(tmp_path: Path) -> None:
    assert plan(tmp_path, table("a,b,sick", "1 2 3 4", "5 6 7 8", "yes no no yes")).label == "sick"


def test_label_is_the_last_column_when_a_text_stands_before_it(tmp_path: Path) -> None:
    assert plan(tmp_path, texts("said,mood", "glad sad proud calm")).label == "mood"


def test_label_is_what_the_inputs_leave_over(tmp_path: Path) -> None:
    found = plan(tmp_path, table("a,b,c", "1 2", "3 4", "5 6"), input_columns=["a", "c"])
    assert (found.label, found.inputs) == ("b", ("a", "c"))


def test_label_is_asked_for_when_the_last_column_is_all_different(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as error:
        plan(tmp_path, table("a,b,c", "1 2 3", "4 5 6", "7.5 8.5 9.5"))
    assert error.value.code == "label_column_unclear"
    assert "'a', 'b', 'c'" in error.value.detail


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ("yes no yes no", "classification"),
        ("0 1 0 1", "classification"),
        ("0 1 2 3", "classification"),  # codes without a gap
        ("1.0 2.0 1.0 2.0", "classification"),
        ("10 250 13 999", "regression"),  # integers, but neither repeated nor codes
        ("0.5 1.5 0.5 1.5", "regression"),
        ("1e3 2.25 7 8", "regression"),
        ("1 2 x 2", "classification"),
    ],
)
def test_task_follows_from_the_labels(tmp_path: Path, labels: str, task: str) -> None:
    assert plan(tmp_path, table("a,label", "1 2 3 4", labels)).task == task


def test_task_is_regression_when_there_are_many_integers(tmp_path: Path) -> None:
    numbers = " ".join(str(i % 30) for i in range(90))
    assert plan(tmp_path, table("a,label", numbers, numbers)).task == "regression"


def test_task_is_what_the_form_says(tmp_path: Path) -> None:
    assert plan(tmp_path, table("a,label", "1 2", "0 1"), task="regression").task == "regression"


def test_modality_is_text_when_the_only_input_is_free_text(tmp_path: Path) -> None:
    found = plan(tmp_path, texts("anything,label", "a b a b"))
    assert (found.modality, found.inputs, found.kinds) == ("text", ("anything",), {})


def test_modality_is_text_when_the_only_input_is_named_so(tmp_path: Path) -> None:
    assert plan(tmp_path, table("Text,label", "hi bye hi bye", "a b a b")).modality == "text"


def test_modality_is_tabular_when_the_only_input_is_a_number_or_a_word(tmp_path: Path) -> None:
    assert plan(tmp_path, table("text,label", "1 2 3 4", "a b a b")).modality == "tabular"
    assert plan(tmp_path, table("colour,label", "red blue red red", "a b a b")).modality == "tabular"


def test_modality_is_text_when_one_of_several_inputs_is_a_text_by_name(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{text},{i % 2}" for i, text in enumerate(REVIEWS.splitlines()))
    found = plan(tmp_path, f"id,text,label\n{rows}")
    assert (found.modality, found.inputs, found.ignored) == ("text", ("text",), ("id",))


def test_modality_is_tabular_when_several_inputs_are_named(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{text},{i % 2}" for i, text in enumerate(REVIEWS.splitlines()))
    assert plan(tmp_path, f"id,text,label\n{rows}", input_columns=["id", "text"]).modality == "tabular"


def test_modality_is_what_the_form_says(tmp_path: Path) -> None:
    assert plan(tmp_path, texts("text,label", "a b a b"), modality="tabular").modality == "tabular"
    assert plan(tmp_path, table("x,label", "1 2", "a b"), modality="text").modality == "text"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ("1 -2.5 +3e4 .5", "numeric"),
        ("1 NA n/a null", "numeric"),
        ("NaN ? NA null", "numeric"),
        ("1 inf -inf 2", "numeric"),  # and then each infinite one is a bad row
        ("1 2 three 4", "categorical"),
        ("1_000 2 3 4", "categorical"),
        ("0x1f 2 3 4", "categorical"),
        ("True False True False", "categorical"),
        ("٣ 2 3 4", "categorical"),
    ],
)
def test_column_kind_follows_from_its_values(tmp_path: Path, cells: str, kind: str) -> None:
    assert plan(tmp_path, table("x,label", cells, "a b a b")).kinds == {"x": kind}


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"label_column": "nope"}, "unknown_column"),
        ({"input_columns": ["a", "nope"]}, "unknown_column"),
        ({"label_column": "a", "input_columns": ["a"]}, "label_is_input"),
        ({"modality": "image"}, "modality"),
        ({"modality": "text", "input_columns": ["a", "b"]}, "text_column_unclear"),
    ],
)
def test_infer_refuses_what_the_form_says_when_it_cannot_be(tmp_path: Path, form: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as error:
        plan(tmp_path, table("a,b,label", "1 2", "3 4", "x y"), **form)
    assert error.value.code == code


def test_infer_points_at_the_delimiter_when_there_is_one_column(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as error:
        plan(tmp_path, "a|label\n1|x\n", label_column="a|label")
    assert error.value.code == "no_input_column"
    assert "delimiter" in error.value.detail
