"""A set of images in the making: what a process has seen, and what it keeps image by image."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from ddjax.evaluation.statistics import Observed, Statistics

# Images that are kept for pictures.
SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Keep:
    """What is kept image by image, beside what all are summed into.

    Attributes:
      features: which images' pooled features are, bool [B], by their numbers [B]; as float16.
      ids: whether tokens are.
      write: also writes images somewhere, given how many this process has seen before.
    """

    features: Callable[[np.ndarray], np.ndarray]
    ids: bool = False
    write: Callable[[int, Observed], None] | None = None


class Making:
    """A set in the making.

    Attributes:
      statistics: of the images that this process has seen.
      done: images of the set that all processes together have made.
      seconds: an image took to draw, of each batch that was timed.
      compiling: likewise, of batches that also compiled.
      elapsed: seconds that making and measuring took.
      parts: the files of kept rows, by `done` when they were saved.
    """

    def __init__(self, total: int, keep: Keep, done: int = 0) -> None:
        self.statistics, self.done, self.elapsed = Statistics(total), done, 0.0
        self.seconds: list[float] = []
        self.compiling: list[float] = []
        self.parts: list[int] = []
        self._keep, self._seen = keep, 0
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, batch: Observed, values: Mapping[str, np.ndarray]) -> None:
        """Take images in, and what metrics read off each of them, by key."""
        self.statistics.add(batch, values)
        if self._keep.write:
            self._keep.write(self._seen, batch)
        self._seen += len(batch.index_B)
        everywhere = np.ones(len(batch.index_B), bool)
        self._keep_rows("number", batch, everywhere, batch.index_B)
        self._keep_rows("shown", batch, batch.index_B < SHOWN, batch.levels_BHWC)
        features = batch.features.pooled_BF.astype(np.float16)
        self._keep_rows("features", batch, self._keep.features(batch.index_B), features)
        if self._keep.ids:
            self._keep_rows("ids", batch, everywhere, batch.ids_BL.astype(np.uint16))

    def _keep_rows(self, name: str, batch: Observed, kept_B: np.ndarray, rows: np.ndarray) -> None:
        self._rows.setdefault(name, []).append(rows[kept_B])
        self._rows.setdefault(f"{name}.index", []).append(batch.index_B[kept_B])

    def take_rows(self) -> dict[str, np.ndarray]:
        """What was kept since the last time, by name, and of which images, by name.index."""
        rows = {name: np.concatenate(parts) for name, parts in self._rows.items()}
        self._rows = {}
        self.parts.append(self.done)
        return rows

    def merge(self, other: "Making") -> None:
        """Take in what another process has seen of the same images; times stay the own ones."""
        self.statistics.merge(other.statistics)

    @property
    def seconds_per_image(self) -> float | None:
        """The median over the batches that were timed; None if none was."""
        timed = self.seconds or self.compiling
        return float(np.median(timed)) if timed else None

    def arrays(self) -> dict[str, np.ndarray]:
        """All there is to keep but rows; `of_arrays` makes the very same of it."""
        own = {name: np.array(getattr(self, name)) for name in
               ("done", "seconds", "compiling", "elapsed", "parts")}
        sums = {f"statistics.{name}": x for name, x in self.statistics.arrays().items()}
        return {**own, "seen": np.array(self._seen), **sums}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], keep: Keep) -> "Making":
        """See `arrays`."""
        prefix = "statistics."
        sums = {name.removeprefix(prefix): x for name, x in arrays.items()
                if name.startswith(prefix)}
        made = cls(int(sums["total"]), keep, int(arrays["done"]))
        made.statistics = Statistics.of_arrays(sums)
        for name in ("seconds", "compiling", "parts"):
            setattr(made, name, arrays[name].tolist())
        made.elapsed, made._seen = float(arrays["elapsed"]), int(arrays["seen"])
        return made
