"""Training health: stops at numbers that are not finite, reports gradient spikes."""

from __future__ import annotations

import collections
import statistics
from typing import TYPE_CHECKING

import jax
import numpy as np

from ddjax.runtime import progress
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from clu import metric_writers

    from ddjax.training.events import Nowhere

# A spike is a gradient norm above so many times the median of the steps before it: of the last
# WINDOW of them, and at least ENOUGH, since a run starts with large ones.
SPIKE, WINDOW, ENOUGH = 10.0, 100, 20


class Health:
    """Reads the scalars of each step one step late, so that the device never waits for the host.

    `stop` says whether some process had received a signal to stop by the last step that was read.

    Args:
      name: of the training.
      tensors: names of the parameters, in the order of "gradient_norms".
      events: where spikes are written.
    """

    def __init__(
        self, name: str, tensors: list[str], events: metric_writers.MetricWriter | Nowhere
    ) -> None:
        self._name, self._tensors, self._events = name, tensors, events
        self._norms: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._last: dict[str, float] = {}
        self.stop = False

    def put(self, step: int, scalars: dict[str, jax.Array]) -> None:
        """Look at the step before, and keep the scalars of this one, which may still be computed.

        Raises:
          UserError: as `flush`.
        """
        self.flush()
        self._pending = step, scalars

    def flush(self) -> dict[str, float]:
        """Look at the last step now; returns its scalars.

        Raises:
          UserError: one is not finite; names the step, the metric and the first bad gradient.
        """
        if self._pending is not None:
            (step, scalars), self._pending = self._pending, None
            host = jax.device_get(scalars)
            norms, self.stop = host.pop("gradient_norms"), bool(host.pop("stop"))
            self._last = {metric: float(value) for metric, value in host.items()}
            self._refuse_not_finite(step, norms)
            self._tell_spike(step, self._last["gradient_norm"])
        return self._last

    def _refuse_not_finite(self, step: int, norms: np.ndarray) -> None:
        for metric, value in self._last.items():
            if not np.isfinite(value):
                bad = [n for n, x in zip(self._tensors, norms, strict=True) if not np.isfinite(x)]
                where = f"; the gradient is not finite first at {bad[0]}" if bad else ""
                raise UserError(
                    f"{self._name}: {metric} is {value} at step {step}{where}; the last good "
                    "checkpoint is kept. Lower the learning rate, or look at the data of that step"
                )

    def _tell_spike(self, step: int, norm: float) -> None:
        if len(self._norms) >= ENOUGH:
            median = statistics.median(self._norms)
            if norm > SPIKE * median:
                self._events.write_scalars(step + 1, {"gradient_norm_spike": norm})
                progress.line(
                    f"{self._name}: gradient norm {norm:.3g} at step {step} is above {SPIKE:g} "
                    f"times {median:.3g}, the median of the last {len(self._norms)} steps"
                )
        self._norms.append(norm)
