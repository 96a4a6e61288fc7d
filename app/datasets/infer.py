"""Decides what a table is for, from its profile and from what the upload says. What is said always wins.

The rule
  label     `label_column`; else the first of label, target, class, y, category, outcome, output that is a column; else
            the one column that `input_columns` leaves over; else the last column if its values repeat (a value stands
            on two rows on average) or all columns before it are one free text; else the upload must name it.
  inputs    `input_columns`; else for a text dataset the one text column; else all columns but the label.
  modality  `modality`; else text where the only input is free text (three words or twenty characters on average and
            mostly different) or a text by name (text, sentence, review, ...); of several inputs, where one is a text
            by name and free; else tabular.
  task      `task`; else classification where labels are no numbers, or are at most twenty different integers that
            repeat or follow one another without a gap; else regression.
  columns   numeric where every value is a number (or there is none), else categorical.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.datasets.findings import refuse, shown
from app.datasets.profile import ColumnProfile, TableProfile
from app.datasets.schemas import Modality, Task, UploadForm

LABEL_NAMES = ("label", "labels", "target", "class", "y", "category", "outcome", "output")
TEXT_NAMES = ("text", "sentence", "review", "utterance", "document", "content", "message", "comment", "body", "query")
MAX_INTEGER_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the columns of a table become examples."""

    modality: Modality
    task: Task
    label: str
    inputs: tuple[str, ...]
    kinds: dict[str, str]
    """Tabular only: "numeric" or "categorical" for each input."""
    ignored: tuple[str, ...]


def infer(profile: TableProfile, form: UploadForm) -> Plan:
    """The plan of the rule above.

    Raises:
        InvalidInput: a named column does not exist, or the rule does not decide.
    """
    columns = profile.columns
    if not columns:
        raise refuse("no_input_column", "The rows have no columns.")
    if form.modality == "image":
        raise refuse("modality", "A table holds no images.", hint="Send images as a zip with one folder per class.")
    named = _existing(form.input_columns or (), columns, "input_columns")
    label = _label(columns, form, named)
    rest = named or tuple(name for name in columns if name != label)
    if label in rest:
        raise refuse("label_is_input", f"'{label[:60]}' cannot be both label and input.", column=label)
    if not rest:
        hint = "Is the delimiter one of comma, semicolon and tab?" if len(columns) == 1 else None
        raise refuse("no_input_column", "There is no column beside the label.", hint=hint)
    modality, inputs = _modality([columns[name] for name in rest], form, is_named=bool(named))
    kinds = {name: "numeric" if columns[name].is_numeric else "categorical" for name in inputs}
    return Plan(
        modality=modality,
        task=form.task or _task(columns[label]),
        label=label,
        inputs=inputs,
        kinds=kinds if modality == "tabular" else {},
        ignored=() if named else tuple(name for name in rest if name not in inputs),
    )


def _existing(names: Sequence[str], columns: dict[str, ColumnProfile], field: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in names))
    unknown = [name for name in names if name not in columns]
    if unknown:
        hint = f"The columns are {shown(columns, 20)}."
        raise refuse("unknown_column", f"There is no column {shown(unknown)}.", hint=hint, pointer=f"/{field}")
    return names


def _label(columns: dict[str, ColumnProfile], form: UploadForm, inputs: tuple[str, ...]) -> str:
    if form.label_column is not None:
        return _existing([form.label_column], columns, "label_column")[0]
    by_name = {name.casefold(): name for name in reversed(columns) if name not in inputs}
    for known in LABEL_NAMES:
        if known in by_name:
            return by_name[known]
    rest = [name for name in columns if name not in inputs]
    if len(rest) == 1:
        return rest[0]
    if inputs or not _is_plain_label([columns[name] for name in columns]):
        hint = f"Name it in the field label_column. The columns are {shown(columns, 20)}."
        raise refuse("label_column_unclear", "It is not clear which column holds the label.", hint=hint)
    return rest[-1]


def _is_plain_label(columns: list[ColumnProfile]) -> bool:
    *before, last = columns
    if len(before) == 1 and before[0].is_free_text and not last.is_free_text:
        return True
    return last.n_values > 0 and last.distinct <= last.n_values / 2


def _modality(candidates: list[ColumnProfile], form: UploadForm, *, is_named: bool) -> tuple[Modality, tuple[str, ...]]:
    names = tuple(column.name for column in candidates)
    if form.modality == "tabular":
        return "tabular", names
    text = _text_column(candidates, form.modality == "text")
    # Two columns named as inputs are wanted both, and only a table has several.
    if text is None or (is_named and len(candidates) > 1):
        if form.modality == "text":
            hint = f"Name it alone in the field input_columns. Candidates are {shown(names, 20)}."
            raise refuse("text_column_unclear", "It is not clear which one column holds the text.", hint=hint)
        return "tabular", names
    return "text", (text.name,)


def _text_column(candidates: list[ColumnProfile], is_wanted: bool) -> ColumnProfile | None:
    """The column that makes this a text dataset, if one does."""
    if len(candidates) == 1:
        only = candidates[0]
        is_text_by_name = only.name.casefold() in TEXT_NAMES and not only.is_numeric
        return only if is_wanted or is_text_by_name or only.is_free_text else None
    free = [column for column in candidates if column.is_free_text]
    by_name = [column for column in candidates if column.name.casefold() in TEXT_NAMES]
    if is_wanted:
        return free[0] if len(free) == 1 else by_name[0] if len(by_name) == 1 else None
    both = [column for column in free if column in by_name]
    return both[0] if len(both) == 1 and len(free) == 1 else None


def _task(label: ColumnProfile) -> Task:
    if not label.is_numeric or label.n_values == 0:
        return "classification"
    if not label.is_integral or label.distinct > MAX_INTEGER_CLASSES:
        return "regression"
    is_repeating = label.distinct <= label.n_values / 2
    is_gapless = label.highest - label.lowest + 1 == label.distinct
    return "classification" if is_repeating or is_gapless else "regression"
