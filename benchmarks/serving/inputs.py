"""What is asked of the servers: real texts and photos where the development data is there, made-up ones elsewhere.

No two requests of a run carry the same input, so that a cache of answers or features helps nobody.
"""

import base64
import io
import itertools
import random
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.learning import data
from benchmarks.learning.data import Examples
from benchmarks.serving.systems import Input

MODALITIES = ("tabular", "text", "image")
COLUMNS = 10
SHOTS = 8
INTENTS = ("alarm", "bill_due", "definition", "international_visa", "mpg", "order_checks", "recipe", "translate")
_WORDS = (
    "river",
    "table",
    "seven",
    "music",
    "paper",
    "cloud",
    "garden",
    "window",
    "copper",
    "winter",
    "silver",
    "road",
)
_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class Material:
    """Of one modality: the file that a model is adapted to, and a pool of inputs that queries are made of."""

    modality: str
    file: str
    content: bytes
    pool: Sequence[Input]

    def distinct(self, seed: int) -> Iterator[Input]:
        """Inputs without end of which no two are equal, whatever the seeds of other draws."""
        draw = random.Random(seed)  # noqa: S311 - a benchmark
        order = draw.sample(range(len(self.pool)), len(self.pool))
        for number, place in enumerate(itertools.cycle(order)):
            yield _marked(self.pool[place], f"{seed}.{number}", draw)


def _marked(value: Input, mark: str, draw: random.Random) -> Input:
    """The same to a model, or nearly; not the same to a cache."""
    if not isinstance(value, str):
        return {name: round(number + draw.gauss(0, 0.01), 6) for name, number in value.items()}
    if value.startswith("/9j/"):  # base64 of a JPEG file: a comment may follow its first two bytes
        return _base64(_commented(base64.b64decode(value), mark.encode()))
    return f"{value} {mark}"


def _commented(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def material(modality: str, folder: Path) -> Material:
    """From the development data in `folder`, or made up where that is not there."""
    if modality == "tabular":
        return table(COLUMNS)
    examples = _texts(folder) if modality == "text" else None
    if examples is not None:
        return Material(modality="text", file="text.csv", content=_csv(_few(examples)), pool=examples.inputs)
    images = _images(folder)
    return Material(
        modality="image", file="image.zip", content=_zip(_few(images)), pool=[_base64(image) for image in images.inputs]
    )


def table(columns: int, rows: int = 80) -> Material:
    """Two classes of correlated numbers."""
    draw = random.Random(columns)  # noqa: S311
    names = [f"c{column:03}" for column in range(columns)]
    lines, pool = [",".join((*names, "label"))], []
    for number in range(rows):
        label = number % 2
        row = {name: round(draw.gauss(1.2 * label / (1 + place % 3), 1), 4) for place, name in enumerate(names)}
        pool.append(row)
        lines.append(",".join((*map(str, row.values()), ("low", "high")[label])))
    return Material(modality="tabular", file="table.csv", content="\n".join(lines).encode(), pool=pool)


def _texts(folder: Path) -> Examples[str]:
    if not (folder / "intents").is_dir():
        draw = random.Random(0)  # noqa: S311
        labels = [f"about {word}" for word in _WORDS[:4] for _ in range(100)]
        texts = [" ".join(draw.choices((*_WORDS, label.split()[1], label.split()[1]), k=10)) for label in labels]
        return Examples(inputs=texts, labels=labels)
    found = data.clinc150(folder, "train")
    return found.select([row for row, label in enumerate(found.labels) if label in INTENTS])


def _images(folder: Path) -> Examples[bytes]:
    if (folder / "pacs").is_dir():
        return data.pacs(folder, "photo")
    draw, inputs, labels = np.random.default_rng(0), [], []
    for number in range(60):
        bright = number % 2
        pixels = draw.integers(100 * bright, 100 * bright + 120, (_SIDE, _SIDE, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        inputs.append(file.getvalue())
        labels.append(("dark", "bright")[bright])
    return Examples(inputs=inputs, labels=labels)


def _few(examples: Examples[data.Input]) -> Examples[data.Input]:
    return data.few_of(examples, SHOTS, seed=0)


def _csv(examples: Examples[str]) -> bytes:
    rows = zip(examples.inputs, examples.labels, strict=True)
    return "\n".join(["text,label", *(f'"{text.replace(chr(34), chr(39))}",{label}' for text, label in rows)]).encode()


def _zip(examples: Examples[bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (image, label) in enumerate(zip(examples.inputs, examples.labels, strict=True)):
            archive.writestr(f"{label}/{number}.jpg", image)
    return file.getvalue()


def words(count: int, seed: int) -> str:
    """A text of so many tokens that the tokenizer keeps whole, without the two that enclose it."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))  # noqa: S311


def square(side: int, seed: int) -> str:
    """Base64 of a JPEG file with patches of colour, which is about as large as a photo's."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return _base64(file.getvalue())
