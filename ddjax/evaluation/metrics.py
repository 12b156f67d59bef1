"""Metrics: the columns of the report, one small object each.

To add one, write its function and list it in `METRICS`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ddjax.data.shapes import ASPECTS
from ddjax.evaluation import precision_recall
from ddjax.evaluation.frechet import frechet_distance
from ddjax.evaluation.reference import Reference


@dataclasses.dataclass(frozen=True)
class Samples:
    """A set of images as it is measured.

    Attributes:
      features_NF: of the images, by the net.
      classes_N: that the net sees; None where it does not classify.
      labels_N: that were asked for; None without classes.
      ids_NL: tokens; None of data.
      exact_ids_NL: tokens of the teacher's map for the same noise; None where it was not drawn.
      passes: of networks for an image; None of data.
      seconds_per_image: None where no network draws.
      teacher_seconds_per_image: of the teacher's AR sampling; None where it was not drawn.
      right_NA: bool, what a picture of shapes shows rightly, by `ddjax.data.shapes.ASPECTS`; None
        of other images.
      held_out_N: bool, which captions no training picture had.
    """

    features_NF: np.ndarray
    classes_N: np.ndarray | None = None
    labels_N: np.ndarray | None = None
    ids_NL: np.ndarray | None = None
    exact_ids_NL: np.ndarray | None = None
    passes: int | None = None
    seconds_per_image: float | None = None
    teacher_seconds_per_image: float | None = None
    right_NA: np.ndarray | None = None
    held_out_N: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure about a set of samples.

    Attributes:
      name: in metrics.json.
      title: in the table.
      text: format of a value in the table.
      compute: the figure, or None where it has no meaning.
      deviates: whether it differs from set to set, so that its deviation is reported.
      scale: of the value in the table.
      optional: whether the table leaves the column out where no row has it.
    """

    name: str
    title: str
    text: str
    compute: Callable[[Samples, Reference], float | None]
    deviates: bool = True
    scale: float = 1.0
    optional: bool = False

    def cell(self, mean: float | None, deviation: float | None) -> str:
        """A value as the table shows it, with its standard deviation over sets."""
        if mean is None:
            return ""
        shown = self.text.format(mean * self.scale)
        if deviation is None or not self.deviates:
            return shown
        return f"{shown} ± {self.text.format(deviation * self.scale)}"


def fd_data(samples: Samples, reference: Reference) -> float | None:
    """Fréchet distance to the data."""
    if reference.data_NF is None:
        return None
    return frechet_distance(samples.features_NF, reference.data_NF)


def fd_teacher(samples: Samples, reference: Reference) -> float:
    """Fréchet distance to other samples of the teacher."""
    return frechet_distance(samples.features_NF, reference.teacher_NF)


def class_accuracy(samples: Samples, reference: Reference) -> float | None:
    """Share of images that the net sees as the class that was asked for."""
    del reference
    if samples.classes_N is None or samples.labels_N is None:
        return None
    return float(np.mean(samples.classes_N == samples.labels_N))


def precision(samples: Samples, reference: Reference) -> float | None:
    """Share of samples on the manifold of the data."""
    return _on_manifold(precision_recall.precision, samples, reference)


def recall(samples: Samples, reference: Reference) -> float | None:
    """Share of the data on the manifold of the samples."""
    return _on_manifold(precision_recall.recall, samples, reference)


def _on_manifold(
    share: Callable[[np.ndarray, np.ndarray, int], float], samples: Samples, reference: Reference
) -> float | None:
    if reference.subset_NF is None:
        return None
    features_NF = samples.features_NF[: len(reference.subset_NF)]
    return share(reference.subset_NF, features_NF, reference.neighbours)


def tokens_equal(samples: Samples, reference: Reference) -> float | None:
    """Share of ids that are those of the teacher's map for the same noise."""
    del reference
    if samples.ids_NL is None or samples.exact_ids_NL is None:
        return None
    return float(np.mean(samples.ids_NL == samples.exact_ids_NL))


def speedup(samples: Samples, reference: Reference) -> float | None:
    """Time of the teacher's AR sampling over that of these samples."""
    del reference
    if samples.seconds_per_image is None or samples.teacher_seconds_per_image is None:
        return None
    return samples.teacher_seconds_per_image / samples.seconds_per_image


def _right(aspects: Sequence[int], held_out: bool = False) -> Callable[..., float | None]:
    """Share of the pictures of shapes in which these aspects are right."""

    def share(samples: Samples, reference: Reference) -> float | None:
        del reference
        if samples.right_NA is None:
            return None
        right_N = samples.right_NA[:, list(aspects)].all(axis=1)
        return float(np.mean(right_N[samples.held_out_N] if held_out else right_N))

    return share


_ALL = range(len(ASPECTS))

# In the order of the table.
METRICS = (
    Metric("fd_data", "FD to data", "{:.2f}", fd_data),
    Metric("fd_teacher", "FD to teacher", "{:.2f}", fd_teacher),
    Metric("class_accuracy", "class accuracy", "{:.3f}", class_accuracy),
    Metric("precision", "precision", "{:.2f}", precision),
    Metric("recall", "recall", "{:.2f}", recall),
    Metric("tokens_equal", "tokens equal", "{:.2f}", tokens_equal),
    *(Metric(f"{aspect}_right", aspect, "{:.3f}", _right([i]), optional=True)
      for i, aspect in enumerate(ASPECTS)),
    Metric("all_right", "all right", "{:.3f}", _right(_ALL), optional=True),
    Metric(
        "all_right_held_out", "all right, held out", "{:.3f}", _right(_ALL, held_out=True),
        optional=True,
    ),
    Metric("passes", "passes", "{:.0f}", lambda samples, _: samples.passes, deviates=False),
    Metric(
        "seconds_per_image", "ms / image", "{:.3g}",
        lambda samples, _: samples.seconds_per_image, deviates=False, scale=1e3,
    ),
    Metric("speedup", "speed-up", "{:.1f}x", speedup, deviates=False),
)


def measured(name: str, sets: list[Samples], reference: Reference) -> dict[str, Any]:
    """A row of the table.

    Args:
      name: of the row.
      sets: independent sets of samples.
      reference: what they are compared with.

    Returns:
      The mean of each metric by its name, and under "deviation" the standard deviations over the
      sets; None where a figure has no meaning or there is one set alone.
    """
    row, deviation = {"method": name}, {}
    for metric in METRICS:
        values = [metric.compute(samples, reference) for samples in sets]
        known = [value for value in values if value is not None]
        row[metric.name] = float(np.mean(known)) if known else None
        several = metric.deviates and len(known) > 1
        deviation[metric.name] = float(np.std(known, ddof=1)) if several else None
    return {**row, "deviation": deviation}
