"""Warnings about a dataset that is sound but may not be what was meant."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.datasets.findings import refuse, shown
from app.datasets.infer import Plan
from app.datasets.profile import ColumnProfile, TableProfile

IMBALANCE = 10
_NEAR_CONSTANT = 0.99
_MOSTLY_NUMERIC = 0.9
_TINY_SIDE = 32


def notice(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


class Tally:
    """Counts classes and repeated inputs while rows go by."""

    def __init__(self, max_classes: int) -> None:
        self.classes: Counter[str] = Counter()
        self._max_classes = max_classes
        self._first_label: dict[bytes, int] = {}
        self._conflicting: set[bytes] = set()
        self._n_inputs = 0
        self._labels: set[int] = set()
        self._tiny_images = 0

    def count_classes(self, labels: Iterable[str]) -> None:
        """Raises `InvalidInput` where there are too many."""
        self.classes.update(labels)
        if len(self.classes) > self._max_classes:
            hint = "Is it the right label column? If its values are numbers, send task=regression."
            raise refuse("too_many_classes", f"There are more than {self._max_classes} classes.", hint=hint)

    def count_inputs(self, keys: Sequence[str], labels: Sequence[Any]) -> None:
        for key, label in zip(keys, labels, strict=True):
            short, mark = bytes.fromhex(key)[:16], hash(label)
            if len(self._labels) < 2:
                self._labels.add(mark)
            first = self._first_label.setdefault(short, mark)
            if first != mark:
                self._conflicting.add(short)
        self._n_inputs += len(keys)

    def count_image(self, width: int, height: int) -> None:
        self._tiny_images += min(width, height) < _TINY_SIDE

    def notices(self) -> list[dict[str, str]]:
        found = [*_class_notices(self.classes)]
        if not self.classes and len(self._labels) == 1:
            found.append(notice("constant_label", "All labels are the same number."))
        repeated = self._n_inputs - len(self._first_label)
        if repeated:
            found.append(notice("duplicate_inputs", f"{repeated} examples repeat the input of an earlier one."))
        if self._conflicting:
            message = f"{len(self._conflicting)} inputs occur with different labels."
            found.append(notice("conflicting_labels", message))
        if self._tiny_images:
            message = f"{self._tiny_images} images are less than {_TINY_SIDE} pixels wide or high."
            found.append(notice("tiny_images", message))
        return found


def _class_notices(classes: Mapping[str, int]) -> Iterable[dict[str, str]]:
    if not classes:
        return
    if len(classes) == 1:
        yield notice("single_class", f"All examples are of the class {shown(classes)}; nothing can be told apart.")
    one_shot = sorted(name for name, count in classes.items() if count == 1)
    if one_shot:
        yield notice("one_shot_classes", f"Classes with a single example: {shown(one_shot)}.")
    rarest, commonest = min(classes.values()), max(classes.values())
    if commonest > IMBALANCE * rarest:
        message = f"The largest class has {commonest} examples, the smallest {rarest}."
        yield notice("class_imbalance", message)


def column_notices(profile: TableProfile, plan: Plan) -> list[dict[str, str]]:
    found = []
    if plan.ignored:
        found.append(notice("columns_ignored", f"Not used, because the text is the input: {shown(plan.ignored)}."))
    inputs = [profile.columns[name] for name in plan.kinds]
    constant = [column.name for column in inputs if column.n_common >= _NEAR_CONSTANT * column.n]
    if constant:
        found.append(notice("near_constant_columns", f"Columns with hardly more than one value: {shown(constant)}."))
    return found + [_mostly_numeric(column) for column in inputs if _is_mostly_numeric(column)]


def _is_mostly_numeric(column: ColumnProfile) -> bool:
    return not column.is_numeric and column.n_numbers >= _MOSTLY_NUMERIC * column.n_values


def _mostly_numeric(column: ColumnProfile) -> dict[str, str]:
    message = (
        f"Column {shown([column.name])} is taken as categorical: {column.n_values - column.n_numbers} of its "
        f"{column.n_values} values are no numbers, the first in row {column.odd_row}."
    )
    return notice("mostly_numeric_column", message)
