"""Validation curves: quality over the steps of training, a row of panels for each ablation."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ddjax.ablate.results import mean_and_deviation
from ddjax.evaluation import pictures, plots
from ddjax.evaluation.plots import COLOURS, MARKERS, VALIDATED


def draw(path: Path, results: dict[str, Any]) -> None:
    """Write a PNG: means over seeds, with a band of a standard deviation to either side.

    Args:
      path: of the PNG.
      results: of `ddjax.ablate.results.collect`.
    """
    ablations = results["ablations"]
    figure, axes = plt.subplots(
        len(ablations), len(VALIDATED), squeeze=False, layout="constrained",
        figsize=(5 * len(VALIDATED), 3.6 * len(ablations)),
    )
    for row, ablation in zip(axes, ablations, strict=True):
        for axis, (name, title) in zip(row, VALIDATED.items(), strict=True):
            for i, one in enumerate(ablation["values"]):
                _curve(axis, one["curve"]["step"], one["curve"][name], one["value"], i)
            axis.set(xlabel="steps of training", ylabel=title)
            axis.grid(alpha=0.3, lw=0.4)
        row[0].set_yscale("log")
        plots.plain_numbers(row[0].yaxis)
        plots.legend_beside(row[-1], title=ablation["key"], title_fontsize=8)
    seeds = results["seeds"]
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(
        f"{results['name']}: one-step samples of held-out noise, {results['samples']} each{over}",
        fontsize=9,
    )
    pictures.write(figure, path)


def _curve(axis: Axes, steps: list[int], values: list[list[float]], label: str, i: int) -> None:
    """One value's line, and its band."""
    style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
    points = [mean_and_deviation(of_seeds) for of_seeds in values]
    mean = np.array([point[0] for point in points])
    axis.plot(steps, mean, label=label, markersize=4, lw=1.4, **style)
    if points[0][1] is not None:
        deviation = np.array([point[1] for point in points])
        # On a logarithmic axis a band must end above 0.
        low = np.maximum(mean - deviation, mean / 10)
        axis.fill_between(steps, low, mean + deviation, color=style["color"], alpha=0.2, lw=0)
