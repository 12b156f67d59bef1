"""Profiling: a trace of some training steps, for TensorBoard's profiler."""

from pathlib import Path
from typing import Any, Self

import jax


class Trace:
    """Traces the steps first, ..., stop - 1 into a folder; none if `steps` is empty.

    A trace is whole also where training begins, ends or fails among these steps.
    """

    def __init__(self, directory: Path, steps: tuple[int, ...]) -> None:
        self._directory, self._steps = directory, range(*steps) if steps else range(0)
        self._running = False

    def step(self, number: int, state: Any) -> jax.profiler.StepTraceAnnotation:
        """The context of a step; the trace ends once the device has computed `state`."""
        if number in self._steps and not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif number not in self._steps and self._running:
            jax.block_until_ready(state)
            self._stop()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._running:
            self._stop()
