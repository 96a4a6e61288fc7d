"""The demo's three problems: source domains, few-shot draws of a target domain, and target rows nobody uploads."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_breast_cancer, load_digits

SHOTS = 5
TEXT_FOLDER = Path(__file__).parent / "text"
TEXT_TARGET = "mobile_app"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file for POST /v1/datasets."""

    name: str
    filename: str
    content: bytes
    fields: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A transfer problem. `supports` are disjoint draws of SHOTS rows per class; no upload holds a row of `inputs`."""

    modality: str
    story: str
    sources: tuple[Upload, ...]
    supports: tuple[Upload, ...]
    inputs: tuple[Any, ...]
    labels: tuple[str, ...]


def _draws(labels: Sequence[str], n_draws: int, rng: np.random.Generator) -> tuple[list[list[int]], list[int]]:
    """Rows of `n_draws` disjoint supports, SHOTS per class each, and the rows that are left for testing."""
    supports: list[list[int]] = [[] for _ in range(n_draws)]
    rest: list[int] = []
    for label in sorted(set(labels)):
        rows = rng.permutation([i for i, other in enumerate(labels) if other == label]).tolist()
        for draw in supports:
            draw += [rows.pop() for _ in range(SHOTS)]
        rest += rows
    return supports, rest


def _csv(rows: Iterable[dict[str, Any]]) -> bytes:
    rows = list(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _table_upload(modality: str, domain: str, part: str, rows: Iterable[dict[str, Any]]) -> Upload:
    fields = {"modality": modality, "task": "classification", "domain": domain, "label_column": "label"}
    name = f"{domain}-{part}"
    return Upload(name=name, filename=f"{name}.csv", content=_csv(rows), fields=fields)


# --- text: reviews of four kinds of thing, positive or negative -------------------------------------------------------


def text_scenario(seed: int, n_draws: int = 3) -> Scenario:
    """Reviews of restaurants, headphones and hotels; the target is reviews of mobile apps."""
    domains = {path.stem: _read_csv(path) for path in TEXT_FOLDER.glob("*.csv")}
    target = domains.pop(TEXT_TARGET)
    supports, rest = _draws([row["label"] for row in target], n_draws, np.random.default_rng(seed))
    return Scenario(
        modality="text",
        story=f"reviews: {', '.join(sorted(domains))} -> {TEXT_TARGET}",
        sources=tuple(_table_upload("text", domain, "source", rows) for domain, rows in sorted(domains.items())),
        supports=tuple(
            _table_upload("text", TEXT_TARGET, f"draw-{i}", [target[row] for row in draw])
            for i, draw in enumerate(supports, start=1)
        ),
        inputs=tuple(target[row]["text"] for row in rest),
        labels=tuple(target[row]["label"] for row in rest),
    )


# --- tabular: breast tumours, measured by four laboratories -----------------------------------------------------------


def tabular_scenario(seed: int, n_draws: int = 3) -> Scenario:
    """Tumours split by texture into four laboratories, whose instruments are calibrated differently.

    The split shifts the distribution of the inputs and of the classes; the calibration (a gain per laboratory and
    column, log-normal with a deviation of 0.15) shifts the meaning of the columns.
    """
    laboratories = _laboratories(np.random.default_rng(0))
    *sources, target = laboratories
    supports, rest = _draws([row["label"] for row in target], n_draws, np.random.default_rng(seed))
    return Scenario(
        modality="tabular",
        story="tumours: three laboratories -> a fourth one",
        sources=tuple(_table_upload("tabular", f"lab-{i}", "source", rows) for i, rows in enumerate(sources, start=1)),
        supports=tuple(
            _table_upload("tabular", "lab-4", f"draw-{i}", [target[row] for row in draw])
            for i, draw in enumerate(supports, start=1)
        ),
        inputs=tuple({key: value for key, value in target[row].items() if key != "label"} for row in rest),
        labels=tuple(target[row]["label"] for row in rest),
    )


def _laboratories(rng: np.random.Generator) -> list[list[dict[str, Any]]]:
    data = load_breast_cancer()
    columns = [str(name) for name in data.feature_names[:10]]
    texture = data.data[:, columns.index("mean texture")]
    bands = np.digitize(texture, np.quantile(texture, [0.25, 0.5, 0.75]))
    laboratories = []
    for band in range(4):
        values = data.data[bands == band, :10] * np.exp(rng.normal(0, 0.15, 10))
        names = data.target_names[data.target[bands == band]]
        laboratories.append([_tumour(columns, row, name) for row, name in zip(values, names, strict=True)])
    return laboratories


def _tumour(columns: list[str], values: NDArray[np.float64], name: str) -> dict[str, Any]:
    numbers = (float(f"{value:.5g}") for value in values)
    return {**dict(zip(columns, numbers, strict=True)), "label": str(name)}


# --- images: handwritten digits in four styles ------------------------------------------------------------------------

Style = Callable[[Image.Image, np.random.Generator], Image.Image]
Colour = tuple[int, int, int]


def _style(*, ink: Colour, paper: Colour, angle: float = 0, blur: float = 0, noise: float = 0) -> Style:
    """A look: the colours of ink and paper, a slant in degrees, the lens's blur and the sensor's noise in pixels."""

    def draw(digit: Image.Image, rng: np.random.Generator) -> Image.Image:
        turned = digit.rotate(angle, resample=Image.Resampling.BICUBIC)
        soft = turned.filter(ImageFilter.GaussianBlur(blur)) if blur else turned
        coloured = np.asarray(ImageOps.colorize(soft, black=paper, white=ink), dtype=np.float64)
        grain = rng.normal(0, noise, (*coloured.shape[:2], 1)) if noise else 0.0
        return Image.fromarray(np.clip(coloured + grain, 0, 255).astype(np.uint8))

    return draw


SOURCE_STYLES = {
    "chalk": _style(ink=(240, 240, 235), paper=(40, 80, 60), angle=5, noise=10),
    "ink": _style(ink=(25, 30, 80), paper=(245, 240, 225), angle=-8),
    "screen": _style(ink=(90, 255, 120), paper=(10, 20, 10), blur=0.8),
}
TARGET_STYLES = {"neon": _style(ink=(250, 200, 60), paper=(30, 60, 140), angle=10)}
PIXELS = 32


def image_scenario(seed: int, *, per_source_class: int = 12, n_test: int = 200) -> Scenario:
    """Handwritten digits as chalk, as ink and on a screen; the target is the same ten classes as neon signs.

    One draw only: encoding the test images is what takes time here, and 50 labelled images vary little.
    """
    rng = np.random.default_rng(seed)
    digits = load_digits()
    by_class = [rng.permutation(np.flatnonzero(digits.target == digit)).tolist() for digit in range(10)]
    (name, style), *_ = TARGET_STYLES.items()

    def take(n: int) -> list[int]:
        return [rows.pop() for rows in by_class for _ in range(n)]

    def pictures(rows: list[int], look: Style) -> list[tuple[str, bytes]]:
        return [(str(digits.target[row]), _png(look(_digit(digits.images[row]), rng))) for row in rows]

    sources = {domain: pictures(take(per_source_class), look) for domain, look in SOURCE_STYLES.items()}
    support, test = pictures(take(SHOTS), style), pictures(take(n_test // 10), style)
    return Scenario(
        modality="image",
        story=f"digits: {', '.join(SOURCE_STYLES)} -> {name}",
        sources=tuple(_zip_upload(domain, "source", images) for domain, images in sources.items()),
        supports=(_zip_upload(name, "draw-1", support),),
        inputs=tuple(png for _, png in test),
        labels=tuple(label for label, _ in test),
    )


def _digit(pixels: NDArray[np.float64]) -> Image.Image:
    grey = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
    return grey.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _zip_upload(domain: str, part: str, images: list[tuple[str, bytes]]) -> Upload:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, (label, png) in enumerate(images):
            archive.writestr(f"{label}/{i:04d}.png", png)
    fields = {"modality": "image", "task": "classification", "domain": domain}
    name = f"{domain}-{part}"
    return Upload(name=name, filename=f"{name}.zip", content=buffer.getvalue(), fields=fields)


SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "text": text_scenario,
    "tabular": tabular_scenario,
    "image": image_scenario,
}
