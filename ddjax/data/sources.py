"""Random-access data sources: examples that are read by their number."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

# One image in so many is held out: a small data set is soon memorised.
HELD_OUT = 10


class Source(Protocol):
    """Examples that are read by their numbers."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The examples of these numbers, [N, ...] each."""


class Arrays:
    """A source in memory, or mapped into it: arrays of one length, by name."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        return {name: np.asarray(array[rows]) for name, array in self._arrays.items()}


class Subset:
    """Examples of a source, by their rows there, [n]."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        return self._source.take(self._rows[rows])


def whole(source: Source) -> dict[str, np.ndarray]:
    """All examples at once."""
    return source.take(np.arange(len(source)))


def some_of(source: Source, most: int) -> Subset:
    """At most so many examples of a source, spread over it from the first to the last."""
    rows = np.linspace(0, len(source) - 1, min(most, len(source)))
    return Subset(source, rows.astype(int))


class Images:
    """Images with labels, read by number.

    An example has "image" float32 [H, W, channels] in [-1, 1], "label" int32, "source" int32, which
    image of the data set it is or is a copy of, and, where images have captions, "condition" int32,
    the number of the caption.

    Attributes:
      known: the arrays [N] of an example beside its pixels, which can be had without reading those.
      held_out: bool [N]: whether an image is kept from training. It depends on the image's name or
        number alone, and all copies of an image are on one side.
      digest: of pixels, labels and names; "" of sets that the config alone determines.
      classes: names of the classes; none of sets whose classes have numbers only.
      remarks: lines about images that are left out or not as they were asked for.
      skipped: lines about the images that are left out, all of them.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        known: Mapping[str, np.ndarray],
        held_out: np.ndarray,
        digest: str = "",
        classes: Sequence[str] = (),
        remarks: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> None:
        """Images.

        Args:
          pixels: [N, H, W, channels]: float32 in [-1, 1], or uint8.
          known: see the class.
          held_out: see the class.
          digest: see the class.
          classes: see the class.
          remarks: see the class.
          skipped: see the class.
        """
        self._pixels, self.known, self.held_out = pixels, known, held_out
        self.digest, self.classes = digest, tuple(classes)
        self.remarks, self.skipped = tuple(remarks), tuple(skipped)

    def __len__(self) -> int:
        return len(self._pixels)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        pixels = np.asarray(self._pixels[rows])
        if pixels.dtype == np.uint8:
            pixels = pixels * np.float32(2 / 255)
            pixels -= 1  # in place: twice as fast
        return {"image": pixels, **{name: array[rows] for name, array in self.known.items()}}

    @property
    def seen(self) -> Subset:
        """Those that training may read."""
        return Subset(self, np.flatnonzero(~self.held_out))

    @property
    def unseen(self) -> Subset:
        """Those that are held out."""
        return Subset(self, np.flatnonzero(self.held_out))
