"""Metrics: the columns of the report, one small object each.

To add one, write its file here and list it in `METRICS`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ddjax.evaluation.metrics.class_accuracy import CLASS_ACCURACY
from ddjax.evaluation.metrics.clip_score import CLIP_SCORE
from ddjax.evaluation.metrics.frechet import (
    FD_DATA,
    FD_TEACHER,
    FID_TO_REFERENCE,
    SFID_TO_REFERENCE,
)
from ddjax.evaluation.metrics.inception_score import INCEPTION_SCORE
from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.metrics.precision_recall import PRECISION, RECALL
from ddjax.evaluation.metrics.shapes_right import SHAPES_RIGHT
from ddjax.evaluation.metrics.speed import PASSES, SECONDS_PER_IMAGE, SPEED_UP
from ddjax.evaluation.metrics.tokens_equal import TOKENS_EQUAL
from ddjax.evaluation.reference import Reference
from ddjax.evaluation.statistics import Observed

# In the order of the table.
METRICS: tuple[Metric, ...] = (
    FID_TO_REFERENCE,
    SFID_TO_REFERENCE,
    INCEPTION_SCORE,
    FD_DATA,
    FD_TEACHER,
    CLASS_ACCURACY,
    CLIP_SCORE,
    PRECISION,
    RECALL,
    TOKENS_EQUAL,
    *SHAPES_RIGHT,
    PASSES,
    SECONDS_PER_IMAGE,
    SPEED_UP,
)


def per_image(batch: Observed) -> dict[str, np.ndarray]:
    """What all metrics read off each image of a batch, by key; what two share is read once."""
    readers = {metric.key: metric for metric in METRICS}
    values = {key: metric.per_image(batch) for key, metric in readers.items()}
    return {key: rows for key, rows in values.items() if rows is not None}


def measured(name: str, sets: Iterable[Samples], reference: Reference) -> dict[str, Any]:
    """A row of the table.

    Args:
      name: of the row.
      sets: independent sets of samples; looked at one after another.
      reference: what they are compared with.

    Returns:
      The mean of each metric by its name, and under "deviation" the standard deviations over the
      sets; None where a figure has no meaning or there is one set alone.
    """
    found = [{metric: metric.value(samples, reference) for metric in METRICS} for samples in sets]
    row, deviation = {"method": name}, {}
    for metric in METRICS:
        known = [values[metric] for values in found if values[metric] is not None]
        row[metric.name] = float(np.mean(known)) if known else None
        several = metric.deviates and len(known) > 1
        deviation[metric.name] = float(np.std(known, ddof=1)) if several else None
    return {**row, "deviation": deviation}
