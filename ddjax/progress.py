"""A progress bar with the time left, for whoever waits."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], name: str, total: int, done: int = 0) -> Iterator[T]:
    """Pass items through under a bar with the time left; quiet in a log file, lively on a screen.

    What takes less than a second has none, nor does any process but the first.

    The bar is a `tqdm.tqdm`: `set_postfix_str` shows a figure at its end.
    """
    return tqdm.tqdm(
        items,
        desc=name,
        total=total,
        initial=done,
        leave=False,
        delay=1,
        # Asked first, since a single process may show a bar before it takes a device.
        disable=jax.distributed.is_initialized() and jax.process_index() > 0,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 20,
    )


def line(text: str) -> None:
    """Print a line above the bar."""
    tqdm.tqdm.write(text, file=sys.stderr)
