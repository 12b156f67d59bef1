"""TensorBoard events of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddjax.runtime import hosts

if TYPE_CHECKING:
    from clu import metric_writers


def writer(directory: Path) -> metric_writers.MetricWriter:
    """TensorBoard events in a folder, written from a thread; by the first process alone."""
    from clu import metric_writers  # with TensorFlow, which computing does not need

    if not hosts.is_first():
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))
