"""Throughput of a training: seconds a step, waiting for data, use of the device."""

import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class Throughput:
    """Measures from one report to the next, so that the device is not held up at each step.

    Args:
      batch: examples a step.
      flops: operations a step.
      peak: operations that the devices can do in a second.
    """

    def __init__(self, batch: int, flops: float, peak: float) -> None:
        self._batch, self._flops, self._peak = batch, flops, peak
        self._waited, self._last = 0.0, None

    def wait_for(self, items: Iterator[T]) -> T:
        """The next item; the time it takes is time the device may have waited for data."""
        begin = time.perf_counter()
        item = next(items)
        self._waited += time.perf_counter() - begin
        return item

    def report(self, step: int) -> dict[str, float]:
        """Averages since the last report; nothing in the first, since compiling came before it.

        To be called when the device has done `step` steps. Pictures, validations and checkpoints
        in between count as time.
        """
        now, waited = time.perf_counter(), self._waited
        last, self._last = self._last, (step, now)
        self._waited = 0.0
        if last is None:
            return {}
        steps, seconds = step - last[0], now - last[1]
        return {
            "seconds_per_step": seconds / steps,
            "data_wait_per_step": waited / steps,
            "images_per_second": self._batch * steps / seconds,
            "model_flop_utilisation": self._flops * steps / seconds / self._peak,
        }
