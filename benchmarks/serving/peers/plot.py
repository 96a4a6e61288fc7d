"""Draws the curves: python -m benchmarks.serving.peers.plot CURVES.json PICTURE.png"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 3


def main() -> None:
    source, picture = map(Path, sys.argv[1:])
    panels: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for curve in json.loads(source.read_text(encoding="utf-8")):
        panels[curve["panel"]].append(curve)
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(4.4 * COLUMNS, 3.4 * rows), squeeze=False)
    for place, (panel, curves) in zip(axes.flat, panels.items(), strict=False):
        _draw(place, panel, curves)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def _draw(place: Any, panel: str, curves: list[dict[str, Any]]) -> None:
    for curve in curves:
        x, value, low, high = zip(*curve["points"], strict=True)
        place.plot(x, value, marker="o", markersize=3, label=curve["line"])
        place.fill_between(x, low, high, alpha=0.2)
    sizes = sorted({point[0] for curve in curves for point in curve["points"]})
    place.set_xscale("log")
    place.set_xticks(sizes, [f"{size:,g}" for size in sizes])
    place.minorticks_off()
    place.set_ylim(0, 1.1 * max(point[3] for curve in curves for point in curve["points"]))
    place.set_title(panel, fontsize=10)
    place.grid(alpha=0.3)
    if len(curves) > 1:
        place.legend(fontsize=7)


if __name__ == "__main__":
    main()
