"""Random-access data sources: examples that are read by their number."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """Examples that are read by their numbers."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The examples of these numbers, [N, ...] each."""


class Arrays:
    """A source in memory: arrays of one length, by name."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The examples of these numbers, [N, ...] each."""
        return {name: array[rows] for name, array in self._arrays.items()}
