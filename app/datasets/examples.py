"""Examples of a stored dataset, read back from its canonical file: all, a stratified part, in batches, a preview."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.canonical import PREFIX, input_keys
from app.storage import Storage
from app.tables import Dataset

BATCH_ROWS = 1024

Inputs = list[str] | list[bytes] | dict[str, list[float | str | None]]


@dataclass(frozen=True)
class Examples:
    """Inputs with labels, in upload order."""

    modality: str
    task: str
    inputs: Inputs
    """Texts, the bytes of images, or the columns of a table (None where missing)."""
    column_kinds: dict[str, str]
    """Tabular only: "numeric" or "categorical" for each column, in the table's order."""
    labels: list[str] | list[float]
    keys: list[str]
    """sha256 (hex) of each input's content: its identity in the feature cache."""
    positions: list[int] | None = None
    """Where each example stands in its dataset, from 0; None: these are all of them."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Example:
    """One example for looking at. `input` is a text, an image's bytes, or a table's row (None where missing)."""

    row: int
    label: str | float
    input: str | bytes | dict[str, float | str | None]
    entry: str | None
    """The name of an image in its upload."""


def load(storage: Storage, dataset: Dataset, *, max_rows: int | None = None, seed: int = 0) -> Examples:
    """All examples; or at most `max_rows` of them, the same for the same seed.

    A part has the classes in their proportion, and at least one example of each class where `max_rows` allows it.
    """
    path = storage.fetch(dataset.blob)
    if max_rows is None or max_rows >= dataset.n_examples:
        return _examples(dataset, pq.read_table(path, use_threads=False))
    labels = pq.read_table(path, columns=["label"], use_threads=False).column("label").to_pylist()
    chosen = _stratified(labels if dataset.task == "classification" else None, len(labels), max_rows, seed)
    return replace(_examples(dataset, _rows(path, chosen)), positions=chosen)


def iterate(
    storage: Storage, dataset: Dataset, *, rows: range | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[Examples]:
    """All examples in batches of at most `batch_rows`; memory stays bounded whatever the dataset's size.

    `rows`: only the batches that begin there (see `divided`).
    """
    with pq.ParquetFile(storage.fetch(dataset.blob)) as file:
        for group, batches in _batches(file, batch_rows):
            wanted = [batch for batch in batches if rows is None or batch.start in rows]
            table = file.read_row_group(group, use_threads=False) if wanted else None
            for batch in wanted:
                assert table is not None  # noqa: S101 - it was read for these
                yield _examples(dataset, table.slice(batch.start - batches[0].start, len(batch)))


def divided(storage: Storage, dataset: Dataset, part_rows: int) -> list[range]:
    """The rows in parts of whole batches, each of as many as it takes to have `part_rows`.

    What an encoder makes of a row depends in its last bits on the rows beside it: of whole batches the answers are the
    same whoever gives them.
    """
    with pq.ParquetFile(storage.fetch(dataset.blob)) as file:
        batches = [batch for _, found in _batches(file, BATCH_ROWS) for batch in found]
    parts: list[range] = []
    for batch in batches:
        if parts and len(parts[-1]) < part_rows:
            parts[-1] = range(parts[-1].start, batch.stop)
        else:
            parts.append(batch)
    return parts


def _batches(file: pq.ParquetFile, batch_rows: int) -> Iterator[tuple[int, list[range]]]:
    """Each row group with the rows of its batches. A group is bounded in bytes, which so many images are not."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        yield group, [range(start, min(start + batch_rows, end)) for start in range(first, end, batch_rows)]
        first = end


def preview(storage: Storage, dataset: Dataset, *, offset: int, limit: int) -> list[Example]:
    """`limit` examples after the first `offset`; fewer at the end."""
    chosen = range(min(offset, dataset.n_examples), min(offset + limit, dataset.n_examples))
    table = _rows(storage.fetch(dataset.blob), chosen)
    return [_example(row) for row in table.to_pylist()]


def _example(row: dict[str, Any]) -> Example:
    cells = {name.removeprefix(PREFIX): _plain(value) for name, value in row.items() if name.startswith(PREFIX)}
    return Example(row["row"], row["label"], cells or row["input"], row.get("entry"))


def _plain(value: Any) -> Any:
    """The value, None where it is NaN."""
    return None if value != value else value  # noqa: PLR0124 - only NaN differs from itself


def _rows(path: Path, chosen: Sequence[int]) -> pa.Table:
    """The rows at the ascending positions `chosen`; row groups without any of them are not read."""
    wanted = np.asarray(chosen, dtype=np.int64)
    with pq.ParquetFile(path) as file:
        parts = [file.schema_arrow.empty_table()]
        start = 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + n_rows)] - start
            if len(here):
                parts.append(file.read_row_group(group, use_threads=False).take(pa.array(here)))
            start += n_rows
    return pa.concat_tables(parts)


def _examples(dataset: Dataset, table: pa.Table) -> Examples:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    names = [name for name in table.column_names if name.startswith(PREFIX)]
    # The file has the columns in their order, which the database does not keep.
    kinds = {
        name.removeprefix(PREFIX): "numeric" if pa.types.is_float64(table.schema.field(name).type) else "categorical"
        for name in names
    }
    keys = input_keys(columns, kinds)
    inputs: Inputs = columns["input"] if not names else {
        name.removeprefix(PREFIX): [_plain(value) for value in columns[name]] for name in names
    }  # fmt: skip
    return Examples(dataset.modality, dataset.task, inputs, kinds, columns["label"], keys)


def _stratified(labels: list[str] | None, n_rows: int, size: int, seed: int) -> list[int]:
    """`size` ascending positions, each class in its proportion."""
    order = np.random.default_rng(seed).permutation(n_rows).tolist()
    if labels is None:
        return sorted(order[:size])
    seen: Counter[str] = Counter()
    counts = Counter(labels)
    # Each class spreads its rows evenly over (0, 1]: the k-th of n comes at k/n, its first one before everything.
    ranked = []
    for position in order:
        label = labels[position]
        ranked.append((seen[label] / counts[label], position))
        seen[label] += 1
    ranked.sort(key=lambda pair: pair[0])
    return sorted(position for _, position in ranked[:size])
