"""Plot of the figures of evaluation over the values of a key, where no student was trained."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ddjax.ablate.results import COLUMNS, mean_and_deviation
from ddjax.evaluation import pictures
from ddjax.evaluation.plots import COLOURS, MARKERS

# Panels, of the columns that there are.
PANELS = ("fid", "fd_data", "precision", "recall")


def draw(path: Path, results: dict[str, Any]) -> None:
    """Write a PNG: a row of panels for each key, a line for each method, bars over seeds.

    Args:
      path: of the PNG.
      results: of `ddjax.ablate.results.collect`.
    """
    ablations = results["ablations"]
    there = {name for a in ablations for one in a["values"] for row in one["rows"] for name in row}
    panels = [name for name in PANELS if name in there] or ["fd_teacher"]
    figure, axes = plt.subplots(
        len(ablations), len(panels), squeeze=False, layout="constrained",
        figsize=(4 * len(panels), 3.4 * len(ablations)),
    )
    for row, ablation in zip(axes, ablations, strict=True):
        for axis, name in zip(row, panels, strict=True):
            _panel(axis, ablation, name)
        row[0].legend(fontsize=8, frameon=False)
    seeds = results["seeds"]
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"{results['name']}{over}", fontsize=9)
    pictures.write(figure, path)


def _panel(axis: Axes, ablation: dict[str, Any], name: str) -> None:
    texts = [one["value"] for one in ablation["values"]]
    places, numbers = _places(texts)
    methods = dict.fromkeys(row["method"] for one in ablation["values"] for row in one["rows"])
    for i, method in enumerate(methods):
        points = [
            (place, *mean_and_deviation(row[name]))
            for place, one in zip(places, ablation["values"], strict=True)
            for row in one["rows"] if row["method"] == method and name in row
        ]
        if points:
            x, mean, deviation = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            axis.errorbar(
                x, mean, None if None in deviation else deviation, label=method, lw=1.4,
                marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=5,
                capsize=3,
            )
    if not numbers:
        axis.set_xticks(places, texts)
    axis.set(xlabel=ablation["key"], ylabel=COLUMNS[name][0])
    axis.grid(alpha=0.3, lw=0.4)


def _places(texts: list[str]) -> tuple[np.ndarray, bool]:
    """Where values stand on the axis, and whether they are numbers."""
    try:
        return np.array([float(text) for text in texts]), True
    except ValueError:
        return np.arange(len(texts)), False
