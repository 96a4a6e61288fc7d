"""Every bad row is reported with its number, all at once."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.datasets.ingest import ingest
from app.datasets.schemas import UploadForm
from app.errors import InvalidInput
from app.settings import Settings
from tests.app.files import parquet_of, png, two_classes, zip_of


def refused(tmp_path: Path, data: bytes, limits: dict[str, Any] | None = None, **form: Any) -> InvalidInput:
    path = tmp_path / "upload"
    path.write_bytes(data)
    settings = Settings(data_dir=tmp_path, **(limits or {}))
    with pytest.raises(InvalidInput) as caught:
        ingest(path, "file", UploadForm(name="some", **form), settings, tmp_path / "canonical.parquet")
    return caught.value


def found(error: InvalidInput) -> list[tuple[int | None, str | None, str]]:
    return [(item.row, item.column, item.code) for item in error.errors]


def test_csv_reports_all_kinds_of_bad_rows_in_order(tmp_path: Path) -> None:
    rows = [
        "text,label",
        "one two three,a",
        "too,many,fields",
        "too few",
        ",a",
        "four five six,",
        'bad "quotes" here,"b"x',
        "   ,b",
        "seven eight nine,NaN",
    ]
    error = refused(tmp_path, "\n".join(rows).encode(), modality="text")
    assert error.code == "bad_rows"
    assert found(error) == [
        (2, None, "wrong_number_of_fields"),
        (3, None, "wrong_number_of_fields"),
        (4, "text", "empty_text"),
        (5, "label", "empty_label"),
        (6, None, "bad_quotes"),
        (7, "text", "empty_text"),
        (8, "label", "empty_label"),
    ]
    assert "7 bad rows" in error.detail


def test_csv_counts_records_and_not_lines(tmp_path: Path) -> None:
    error = refused(tmp_path, b'text,label\n"two\nlines here",a\n\n\nlonely,\n', modality="text")
    assert found(error) == [(2, "label", "empty_label")]


def test_regression_reports_labels_that_are_no_finite_numbers(tmp_path: Path) -> None:
    error = refused(tmp_path, b"a,y\n1,2.5\n2,high\n3,nan\n4,inf\n5,1e999\n6,1e39\n7,\n", task="regression")
    assert found(error) == [
        (2, "y", "not_a_number"),
        (3, "y", "empty_label"),
        (4, "y", "number_out_of_range"),
        (5, "y", "number_out_of_range"),
        (6, "y", "number_out_of_range"),
        (7, "y", "empty_label"),
    ]


def test_table_reports_infinite_numbers(tmp_path: Path) -> None:
    error = refused(tmp_path, b"a,b,label\n1,2,x\n-inf,3,y\n4,1e400,x\n")
    assert found(error) == [(2, "a", "number_out_of_range"), (3, "b", "number_out_of_range")]


def test_text_reports_what_is_too_long(tmp_path: Path) -> None:
    data = b"text,label\n" + b"a b c d e f,x\n" + b"a" * 50 + b",y\n" + b"b," + b"z" * 30 + b"\n"
    error = refused(tmp_path, data, {"max_text_chars": 40})
    assert found(error) == [(2, "text", "text_too_long")]
    error = refused(tmp_path, b"text,label\na b c," + b"z" * 501 + b"\n")
    assert found(error) == [(1, "label", "label_too_long")]


def test_jsonl_reports_bad_lines(tmp_path: Path) -> None:
    rows = [
        b'{"text": "one two three", "label": "a"}',
        b'{"text": "one", "text": "two", "label": "a"}',
        b'{"text": "broken',
        b'["a", "b"]',
        b'{"text": {"en": "four"}, "label": "a"}',
        b'{"text": "five six", "label": NaN}',
        b"",
        b'{"text": "no label"}',
        b'{"label": "no text"}',
        b'{"text": "seven \xff", "label": "a"}',
    ]
    error = refused(tmp_path, b"\n".join(rows))
    assert found(error) == [
        (2, None, "bad_json"),
        (3, None, "bad_json"),
        (4, None, "bad_json"),
        (5, "text", "nested_value"),
        (6, None, "bad_json"),
        (7, "label", "empty_label"),
        (8, "text", "empty_text"),
        (9, None, "wrong_encoding"),
    ]


def test_parquet_reports_rows_in_every_batch(tmp_path: Path) -> None:
    labels = [None if i in {5, 2_999} else "ab"[i % 2] for i in range(3_000)]
    error = refused(tmp_path, parquet_of({"x": list(range(3_000)), "label": labels}))
    assert found(error) == [(6, "label", "empty_label"), (3_000, "label", "empty_label")]


def test_parquet_names_the_row_when_a_text_is_not_utf8(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"two", b"\xff"])
    columns = {"text": pa.Array.from_buffers(pa.string(), 3, texts.buffers()), "label": ["a", "b", "a"]}
    assert found(refused(tmp_path, parquet_of(columns))) == [(3, "text", "wrong_encoding")]


def test_zip_reports_bad_entries_by_name(tmp_path: Path) -> None:
    bad = {
        "cat/notes.txt": b"hello",
        "stray.png": png(),
        "cat/deep/1.png": png(),
        "dog/large.png": png(side=400) + b"\0" * 5_000,
    }
    error = refused(tmp_path, zip_of(two_classes() | bad, 0), {"max_image_bytes": 5_000})
    assert {(item.pointer, item.code) for item in error.errors} == {
        ("cat/notes.txt", "not_an_image"),
        ("stray.png", "not_in_class_folder"),
        ("cat/deep/1.png", "not_in_class_folder"),
        ("dog/large.png", "image_too_large"),
    }
    assert "4 bad entries" in error.detail


def test_report_is_cut_at_a_thousand_and_states_the_true_count(tmp_path: Path) -> None:
    error = refused(tmp_path, b"text,label\n" + b"no label here,\n" * 2_500 + b"one two,a\n", modality="text")
    assert len(error.errors) == 1_000
    assert "2500 bad rows" in error.detail
    assert [item.row for item in error.errors[:3]] == [1, 2, 3]


def test_report_joins_unreadable_rows_and_an_unclear_label(tmp_path: Path) -> None:
    error = refused(tmp_path, b"a,b,c\n1,2,3.5\n4,5\n6,7,8.5\n")
    assert {item.code for item in error.errors} == {"wrong_number_of_fields", "label_column_unclear"}


@pytest.mark.parametrize(
    ("data", "limits", "code"),
    [
        (b"a,label\n1,x\n2,y\n3,x\n", {"max_examples": 2}, "too_many_examples"),
        (b'{"a":1,"label":2}\n' * 3, {"max_examples": 2}, "too_many_examples"),
        (parquet_of({"a": [1, 2, 3], "label": [1, 2, 3]}), {"max_examples": 2}, "too_many_examples"),
        (zip_of(two_classes()), {"max_examples": 2}, "too_many_examples"),
        (b"a,b,label\n1,2,x\n", {"max_columns": 2}, "too_many_columns"),
        (parquet_of({"a": [1], "b": [1], "c": [1], "label": [1]}), {"max_columns": 2}, "too_many_columns"),
        (b"a,label\n1,x\n2,y\n3,z\n", {"max_classes": 2}, "too_many_classes"),
        (zip_of(two_classes() | {"eel/1.png": png()}), {"max_classes": 2}, "too_many_classes"),
        (zip_of(two_classes()), {"max_image_pixels": 100}, "bad_rows"),
        (zip_of(two_classes()), {"max_inflated_bytes": 500}, "unsafe_archive"),
        (b"a,a,label\n1,2,x\n", {}, "repeated_column"),
        (b"a,,label\n1,2,x\n", {}, "unnamed_column"),
        (b"1,2,3\n4,5,6\n", {}, "no_header"),
        (parquet_of({"a": [[1, 2]], "label": ["x"]}), {}, "column_type"),
        (parquet_of({"a": [{"b": 1, "c": 2}], "label": ["x"]}), {}, "nested_column"),
        (parquet_of({"a": [b"\xff"], "label": ["x"]}), {}, "column_type"),
        (zip_of(two_classes()), {}, None),
    ],
)
def test_file_is_refused_whole_when_beyond_a_limit(
    tmp_path: Path, data: bytes, limits: dict[str, Any], code: str | None
) -> None:
    if code is None:  # the limits themselves are what refuses the others
        path = tmp_path / "upload"
        path.write_bytes(data)
        assert ingest(path, "f", UploadForm(name="x"), Settings(data_dir=tmp_path), tmp_path / "c").n_examples == 6
        return
    assert refused(tmp_path, data, limits).code == code


@pytest.mark.parametrize(
    "form", [{"modality": "text"}, {"label_column": "label"}, {"input_columns": ["a"]}, {"task": "regression"}]
)
def test_zip_is_refused_when_the_form_fits_only_a_table(tmp_path: Path, form: dict[str, Any]) -> None:
    assert refused(tmp_path, zip_of(two_classes()), **form).code in {"modality", "no_columns", "bad_rows"}
