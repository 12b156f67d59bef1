"""TensorBoard events of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddjax.runtime import hosts

if TYPE_CHECKING:
    from clu import metric_writers


class Nowhere:
    """The writer of a process that writes no events; takes what the loop hands to one."""

    def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
        """Nothing."""

    def write_images(self, step: int, images: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def writer(directory: Path) -> metric_writers.MetricWriter | Nowhere:
    """TensorBoard events in a folder, written from a thread; by the first process alone."""
    if not hosts.is_first():
        return Nowhere()
    from clu import metric_writers  # with TensorFlow, which takes seconds and no other part needs

    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))
