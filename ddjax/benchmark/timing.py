"""Timing of calls: medians, of one alone or of several in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def timed(
    call: Callable[[], Any], repeats: int, enough: float = float("inf")
) -> dict[str, float]:
    """Seconds of the first call, which compiles, and the median of the next ones.

    Args:
      call: gives arrays, which are waited for.
      repeats: how many next ones.
      enough: fewer, but one at least, once they have taken so many seconds together.
    """
    seconds = []
    while len(seconds) < 2 or (len(seconds) <= repeats and sum(seconds[1:]) < enough):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:]), "first_call_seconds": seconds[0]}


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each call, in turns, so that what else the machine does falls on all alike.

    Returns:
      by name: the median of the wall clock, its least and largest, and the median of the
      processor's time, which other work on the machine disturbs less.
    """
    wall, processor = ({name: [] for name in calls} for _ in range(2))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begin, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if turn:  # the first compiles
                wall[name].append(time.perf_counter() - begin)
                processor[name].append(time.process_time() - used)
    return {
        name: {
            "seconds": statistics.median(wall[name]), "least": min(wall[name]),
            "largest": max(wall[name]), "processor_seconds": statistics.median(processor[name]),
        }
        for name in calls
    }
