"""Plots of the report: quality against time, tokens equal by position, validation curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from ddjax.evaluation import pictures

# Okabe and Ito's colours, which colour-blind readers tell apart, but for their yellow; each with a
# marker of its own, for print without colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"

# Scalars of a validation, as axes name them.
VALIDATED = {"fd": "Fréchet distance to the teacher", "tokens_equal": "share of tokens equal"}

# Positions that are told apart by markers.
MARKED = 64


def plain_numbers(scale: Axis) -> None:
    """Label a logarithmic axis by 0.2, which reads easier than 2 x 10^-1; after all is drawn."""
    low, high = scale.get_view_interval()
    if high < 5 * low:  # 1, 2 and 5 times powers of ten may be one label there, or none
        scale.set_major_locator(ticker.MaxNLocator(6))
        scale.set_minor_locator(ticker.NullLocator())
    else:
        scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter("{x:g}")
    scale.set_minor_formatter(ticker.NullFormatter())


def legend_beside(axis: Axes, **options: Any) -> None:
    """A legend to the right of the axes."""
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, **options)


def tradeoff(
    path: Path, points: dict[str, tuple[float, float]], lines: dict[str, float], quality: str
) -> None:
    """Write a PNG: quality (lower is better) against seconds per image, on logarithmic axes.

    What has no distance at all has no place on them and is left out.

    Args:
      path: of the PNG.
      points: by name, (seconds per image, quality); their order gives the markers.
      lines: qualities to compare with, as horizontal lines.
      quality: caption of the axis.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    markers = "osD^vP*X<>hp"
    for i, (name, (seconds, value)) in enumerate(points.items()):
        if value > 0:
            axis.plot(seconds * 1e3, value, markers[i % len(markers)], label=name, markersize=8)
    for name, value in lines.items():
        if value > 0:
            axis.axhline(value, color="grey", lw=0.8, ls=":")
            axis.annotate(name, (0.01, value), xycoords=("axes fraction", "data"), fontsize=8,
                          color="grey", va="bottom")
    axis.set(xscale="log", yscale="log", xlabel="milliseconds per image (steady state)",
             ylabel=f"{quality} (lower is better)")
    for scale in (axis.xaxis, axis.yaxis):
        plain_numbers(scale)
    axis.grid(alpha=0.3, which="both", lw=0.4)
    legend_beside(axis)
    pictures.write(figure, path)


def by_position(
    path: Path, lines: dict[str, np.ndarray], chance_L: np.ndarray | None, starts: Sequence[int]
) -> None:
    """Write a PNG: the share of tokens that are the teacher's map's, along the sequence.

    Args:
      path: of the PNG.
      lines: by method, the share [L] at each position.
      chance_L: of a method that does not read the noise; None draws none.
      starts: positions at which groups of several tokens begin; none where each is one token.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for start in starts:
        axis.axvline(start - 0.5, color="grey", lw=0.4, alpha=0.6)
    for i, (name, share_L) in enumerate(lines.items()):
        marker = MARKERS[i % len(MARKERS)] if len(share_L) <= MARKED else ""
        axis.plot(share_L, marker=marker, markersize=4, lw=1.4, label=name,
                  color=COLOURS[i % len(COLOURS)])
    if chance_L is not None:
        axis.plot(chance_L, color="grey", lw=1, ls=":", label="chance (teacher_ar)")
    axis.set(xlabel="position in the sequence", ylim=(0, 1.02),
             ylabel="share of tokens equal\nto the teacher's map")
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.grid(alpha=0.3, lw=0.4)
    legend_beside(axis)
    pictures.write(figure, path)


def validation(path: Path, rows: Sequence[dict[str, float]], kept: int | None, title: str) -> None:
    """Write a PNG: scalars of a student over the steps of its training.

    Args:
      path: of the PNG.
      rows: of `ddjax.training.validation.read`.
      kept: the step whose student was kept; None for the last.
      title: over everything.
    """
    figure, axes = plt.subplots(1, len(VALIDATED), figsize=(9, 3.4), layout="constrained")
    for axis, (name, label), colour in zip(axes, VALIDATED.items(), COLOURS, strict=False):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o",
                  markersize=4, lw=1.4, color=colour)
        if kept is not None:
            axis.axvline(kept, color="grey", lw=0.8, ls=":")
            axis.annotate("kept", (kept, 0.02), xycoords=("data", "axes fraction"), fontsize=8,
                          color="grey", ha="right")
        axis.set(xlabel="steps of distillation", ylabel=label)
        axis.grid(alpha=0.3, lw=0.4)
    axes[0].set_yscale("log")
    plain_numbers(axes[0].yaxis)
    figure.suptitle(title, fontsize=9)
    pictures.write(figure, path)
