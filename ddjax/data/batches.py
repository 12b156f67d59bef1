"""Batches: shuffled, sharded over processes, a pure function of seed and number (Grain)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddjax.data.sources import Source
from ddjax.runtime import sharding

if TYPE_CHECKING:
    import grain


def batches(source: Source, batch: int, seed: int) -> grain.MapDataset:
    """Endless shuffled batches, a new order each epoch; batch i depends on the seed and i alone.

    Of each batch this process looks up and reads just the rows that its devices hold, so that no
    two processes read the same example in an epoch.
    """
    import grain  # only training reads batches; a bare GPU image has no Grain

    local = sharding.local_rows(batch).tolist()
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()

    def read(number: int) -> dict[str, np.ndarray]:
        return source.take(np.array([order[number * batch + row] for row in local]))

    return grain.MapDataset.range(len(order) // batch).map(read)


def iterate(source: Source, batch: int, seed: int) -> grain.DatasetIterator:
    """`batches` one after another; a thread reads some ahead, in order."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    return iter(batches(source, batch, seed).to_iter_dataset(options))
