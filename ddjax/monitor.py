"""What a person sees while it runs: progress with time left, and TensorBoard events."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import tqdm
from clu import metric_writers

T = TypeVar("T")


def progress(items: Iterable[T], name: str, total: int, done: int = 0) -> Iterator[T]:
    """Pass items through under a bar with the time left; quiet in a log file, lively on a screen.

    The bar is a `tqdm.tqdm`: `set_postfix_str` shows a figure at its end.
    """
    return tqdm.tqdm(
        items,
        desc=name,
        total=total,
        initial=done,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 20,
    )


def writer(directory: Path) -> metric_writers.MetricWriter:
    """TensorBoard events in a folder, written from a thread."""
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))
