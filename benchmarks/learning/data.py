"""The development data (see the README beside it) as plain inputs and labels, in the order of the files."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

Input = TypeVar("Input")

SENTIMENT_DOMAINS = ("apparel", "baby", "books", "dvd", "electronics", "imdb", "toys_games", "video")
PACS_DOMAINS = ("photo", "art_painting", "cartoon")


@dataclass(frozen=True, kw_only=True)
class Examples(Generic[Input]):
    """N inputs (texts, or encoded image files) with their labels. `groups` name a finer origin where there is one."""

    inputs: Sequence[Input]
    labels: Sequence[str]
    groups: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    def select(self, index: Sequence[int]) -> "Examples[Input]":
        return Examples(
            inputs=[self.inputs[i] for i in index],
            labels=[self.labels[i] for i in index],
            groups=[self.groups[i] for i in index] if self.groups else (),
        )

    def first(self, rows: int | None) -> "Examples[Input]":
        """The first `rows`: the files mix their classes well enough to be cut anywhere."""
        return self if rows is None else self.select(range(min(rows, len(self))))


def sentiment(data: Path, domain: str, part: str, rows: int | None = None) -> Examples[str]:
    """Reviews, `negative` or `positive`; `part` is train (about 1,600 rows) or test (400)."""
    return _texts(data / "sentiment" / f"{domain}.{part}.csv").first(rows)


def clinc150(data: Path, part: str) -> Examples[str]:
    """150 intents, grouped in 10 domains; `part` is train, val or test, or oos_train and so on (ungrouped)."""
    return _texts(data / "intents" / f"clinc150.{part}.csv")


def banking77(data: Path, part: str) -> Examples[str]:
    """77 intents of one bank; `part` is train or test."""
    return _texts(data / "intents" / f"banking77.{part}.csv")


def pacs(data: Path, domain: str) -> Examples[bytes]:
    """7 classes x 60 JPEG files of 224 pixels."""
    return _archive(data / "pacs" / f"{domain}.zip")


def omniglot(data: Path) -> dict[str, Examples[bytes]]:
    """By alphabet: 20 PNG drawings of each character, which is the label."""
    drawings = _archive(data / "omniglot" / "background.zip")
    members: dict[str, list[int]] = {}
    for i, alphabet in enumerate(drawings.groups):
        members.setdefault(alphabet, []).append(i)
    return {alphabet: drawings.select(index) for alphabet, index in members.items()}


def _texts(path: Path) -> Examples[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Examples(
        inputs=[row["text"] for row in rows],
        labels=[row["label"] for row in rows],
        groups=[row["domain"] for row in rows] if rows and "domain" in rows[0] else (),
    )


def _archive(path: Path) -> Examples[bytes]:
    """Files by name. The folder they lie in is the label, the folder above it, if any, the group."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        parents = [name.split("/")[:-1] for name in names]
        return Examples(
            inputs=[archive.read(name) for name in names],
            labels=[folders[-1] for folders in parents],
            groups=[folders[-2] for folders in parents] if all(len(folders) > 1 for folders in parents) else (),
        )


def drawn(examples: Examples[Input], rows: int, seed: int = 0) -> Examples[Input]:
    """`rows` of the examples at random: some files are sorted by label."""
    return examples.select(shuffled(len(examples), seed)[:rows].sort().values.tolist())


def shuffled(n_rows: int, seed: int) -> Tensor:
    """(N,) a permutation that depends on the seed alone."""
    return torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))


def few(labels_N: Tensor, shots: int, seed: int) -> Tensor:
    """Positions of `shots` rows per class, the same for a seed whatever else is drawn."""
    order_N = shuffled(len(labels_N), seed)
    return torch.cat([order_N[labels_N[order_N] == label][:shots] for label in labels_N.unique()])


def few_of(examples: Examples[Input], shots: int, seed: int) -> Examples[Input]:
    """`shots` examples per class."""
    numbers = {name: i for i, name in enumerate(examples.classes)}
    labels_N = torch.tensor([numbers[name] for name in examples.labels])
    return examples.select(few(labels_N, shots, seed).tolist())
