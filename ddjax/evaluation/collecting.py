"""Collecting: the statistics of a set of images, made batch by batch, stopped and gone on with.

The images themselves are never kept: a batch is dispatched to the devices, and while they work on
it, the host takes in the batch before.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ddjax.evaluation import metrics
from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics import Observed
from ddjax.runtime import progress

# Batches whose drawing is timed alone, with the devices idle before and after; then they overlap.
TIMED = 10


class Dispatched(NamedTuple):
    """A batch that the devices work on, and the seconds that drawing it took if it was timed."""

    value: Any
    seconds: float | None = None


def collect(
    folder: SetFolder,
    name: str,
    *,
    batch: int,
    dispatch: Callable[[int, bool], Dispatched],
    fetch: Callable[[int, Any], Observed],
    save_every: int,
) -> None:
    """Make a set of images and keep its statistics in a folder, unless it is there.

    Args:
      folder: of the set; what was saved there is gone on with, to the very same statistics.
      name: on the progress bar.
      batch: images at once, over all devices.
      dispatch: starts a batch, by the number of its first image and whether to time it.
      fetch: waits for it, and gives this process' share of it.
      save_every: batches between saves.
    """
    making = folder.resume()
    begin, before = time.perf_counter(), making.elapsed
    pending: tuple[int, Any] | None = None
    starts = range(making.done, folder.total, batch)

    def take_in(first: int, value: Any) -> None:
        seen = fetch(first, value)
        making.add(seen, metrics.per_image(seen))
        making.done = min(first + batch, folder.total)
        making.elapsed = before + time.perf_counter() - begin
        if making.done == folder.total or (starts.index(first) + 1) % save_every == 0:
            folder.save(making)

    for first in progress.bar(starts, name, len(starts)):
        timed = len(making.seconds) < TIMED
        if timed and pending is not None:
            take_in(*pending)
            pending = None
        value, seconds = dispatch(first, timed)
        if seconds is not None:
            # The first of a session compiles.
            (making.seconds if first != starts.start else making.compiling).append(seconds / batch)
        if pending is not None:
            take_in(*pending)
        pending = first, value
    if pending is not None:
        take_in(*pending)
