"""What a person looks at after a training: TensorBoard events."""

from pathlib import Path

from clu import metric_writers


def writer(directory: Path) -> metric_writers.MetricWriter:
    """TensorBoard events in a folder, written from a thread."""
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))
