"""What a person looks at after a training: TensorBoard events."""

from pathlib import Path

from clu import metric_writers

from ddjax import hosts


def writer(directory: Path) -> metric_writers.MetricWriter:
    """TensorBoard events in a folder, written from a thread; by the first process alone."""
    if not hosts.is_first():
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))
