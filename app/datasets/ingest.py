"""From an uploaded file to the canonical one, or to everything that is wrong with it. Knows no database and no web."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.datasets.canonical import PREFIX, CanonicalWriter, input_keys
from app.datasets.cells import Cell, finite_numbers, is_missing, number
from app.datasets.children import Children
from app.datasets.findings import Findings, refuse
from app.datasets.formats.detect import open_upload
from app.datasets.formats.zip_folder import Picture, ZipFolder
from app.datasets.infer import Plan, infer
from app.datasets.notices import Tally, column_notices
from app.datasets.profile import profile_table
from app.datasets.rows import Batch, TableReader
from app.datasets.schemas import Modality, Task, UploadForm
from app.errors import InvalidInput
from app.settings import Settings

MAX_LABEL_CHARS = 500
#: Labels become 32-bit floats when they are learnt from.
MAX_LABEL_NUMBER = 3.4e38


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What the canonical file holds."""

    modality: Modality
    task: Task
    n_examples: int
    classes: dict[str, int]
    columns: dict[str, str]
    content_hash: str
    warnings: list[dict[str, str]]


def ingest(
    path: Path,
    filename: str,
    form: UploadForm,
    settings: Settings,
    target: Path,
    *,
    children: Children | None = None,
) -> Ingested:
    """Reads the upload at `path` and writes the canonical file `target`.

    Args:
        children: the places of all uploads of this process; None: this one is alone.

    Raises:
        InvalidInput: the file or some of its rows are bad; `target` is then of no use.
        UnsupportedMedia: the file is of no known format.
        Unavailable: too many other uploads are being read.
    """
    reader = open_upload(path, filename, settings, children or Children(settings))
    if isinstance(reader, ZipFolder):
        return _ingest_zip(reader, form, settings, target)
    return _ingest_table(reader, form, settings, target)


def _ingest_zip(archive: ZipFolder, form: UploadForm, settings: Settings, target: Path) -> Ingested:
    if form.modality not in {None, "image"}:
        raise refuse("modality", "A zip holds images.", hint="Send texts and tables as CSV, JSONL or Parquet.")
    if form.label_column is not None or form.input_columns is not None:
        hint = "Leave out label_column and input_columns."
        raise refuse("no_columns", "A zip of images has no columns; the folders are the labels.", hint=hint)
    task: Task = form.task or "classification"
    findings, tally = Findings(), Tally(settings.max_classes)
    with CanonicalWriter(target, "image", task, {}) as writer, closing(archive.pictures(findings)) as pictures:
        for picture in pictures:
            label = _picture_label(picture, task, findings)
            if label is None or findings:
                continue
            columns: dict[str, Sequence[Any]] = {"label": [label], "input": [picture.data], "entry": [picture.entry]}
            _take(writer, tally, task, columns, {})
            tally.count_image(picture.info.width, picture.info.height)
        findings.raise_if_any("entry")
        content_hash = writer.finish()
    return Ingested(
        modality="image",
        task=task,
        n_examples=writer.n_rows,
        classes=dict(tally.classes),
        columns={},
        content_hash=content_hash,
        warnings=tally.notices(),
    )


def _picture_label(picture: Picture, task: Task, findings: Findings) -> str | float | None:
    try:
        return _label(picture.label, task)
    except _BadLabel as error:
        findings.entry(picture.entry, error.code, f"the folder name {error}", hint=error.hint)
        return None


def _ingest_table(reader: TableReader, form: UploadForm, settings: Settings, target: Path) -> Ingested:
    findings = Findings()
    profile = profile_table(reader, settings, findings)
    if profile.n_rows == 0:
        findings.raise_if_any()
        raise refuse("no_rows", "The file has no rows.")
    try:
        plan = infer(profile, form)
    except InvalidInput as error:
        if not findings:
            raise
        findings.extend(error.errors)
        findings.raise_if_any()
        raise
    tally = Tally(settings.max_classes)
    with CanonicalWriter(target, plan.modality, plan.task, plan.kinds) as writer:
        for columns in _converted(reader, plan, findings):
            _take(writer, tally, plan.task, columns, plan.kinds)
        findings.raise_if_any()
        content_hash = writer.finish()
    return Ingested(
        modality=plan.modality,
        task=plan.task,
        n_examples=writer.n_rows,
        classes=dict(tally.classes),
        columns=plan.kinds,
        content_hash=content_hash,
        warnings=column_notices(profile, plan) + tally.notices(),
    )


def _take(
    writer: CanonicalWriter, tally: Tally, task: Task, columns: dict[str, Sequence[Any]], kinds: dict[str, str]
) -> None:
    if task == "classification":
        tally.count_classes(columns["label"])
    tally.count_inputs(input_keys(columns, kinds), columns["label"])
    writer.append(columns)


def _converted(reader: TableReader, plan: Plan, findings: Findings) -> Iterator[dict[str, Sequence[Any]]]:
    """Canonical columns batch by batch; none any more once something was found to be wrong."""
    place = {name: i for i, name in enumerate(reader.columns)}
    # The profile already found the rows that cannot be read.
    for batch in reader.batches(Findings()):
        columns: dict[str, Sequence[Any]] = {
            "label": _labels(batch.rows, batch.columns[place[plan.label]], plan, findings)
        }
        if plan.modality == "text":
            columns["input"] = _texts(batch.rows, batch.columns[place[plan.inputs[0]]], plan.inputs[0], findings)
        for name, kind in plan.kinds.items():
            columns[PREFIX + name] = _inputs(batch, place[name], name, kind, findings)
        if not findings:
            yield columns


class _BadLabel(ValueError):
    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def _label(cell: Cell, task: Task) -> str | float:
    text = (cell or "").strip()
    if not text or text in {"nan", "NaN"}:
        raise _BadLabel("empty_label", "is empty", "Give every row a label.")
    if task == "classification":
        if len(text) > MAX_LABEL_CHARS:
            raise _BadLabel("label_too_long", f"has more than {MAX_LABEL_CHARS} characters", "Is it the label?")
        return text
    value = number(text)
    if value is None:
        raise _BadLabel("not_a_number", "is no number", "Send task=classification if the labels are names.")
    if math.isinf(value) or abs(value) > MAX_LABEL_NUMBER:
        raise _BadLabel("number_out_of_range", "is infinite or too large a number")
    return value


def _labels(rows: Sequence[int], cells: Sequence[Cell], plan: Plan, findings: Findings) -> list[str | float]:
    labels = []
    for row, cell in zip(rows, cells, strict=True):
        try:
            labels.append(_label(cell, plan.task))
        except _BadLabel as error:
            findings.row(row, error.code, f"the label {error}", column=plan.label, hint=error.hint)
    return labels


def _texts(rows: Sequence[int], cells: Sequence[Cell], name: str, findings: Findings) -> Sequence[Cell]:
    for row, cell in zip(rows, cells, strict=True):
        if cell is None or not cell.strip():
            findings.row(row, "empty_text", "the text is empty", column=name, hint="Leave the row out.")
    return cells


def _inputs(batch: Batch, place: int, name: str, kind: str, findings: Findings) -> Sequence[float | str | None]:
    cells = batch.columns[place]
    if kind != "numeric":
        kept = {cell: None if cell is None or is_missing(cell) else cell.strip() for cell in set(cells)}
        return [kept[cell] for cell in cells]
    finite = finite_numbers(cells)
    if finite is not None:
        return finite
    values = [math.nan if cell is None or is_missing(cell) else number(cell) for cell in cells]
    for row, value in zip(batch.rows, values, strict=True):
        if value is None or math.isinf(value):
            findings.row(row, "number_out_of_range", "is infinite", column=name, hint="Leave it empty, or cap it.")
    return values
