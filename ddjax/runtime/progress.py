"""Progress bars: what is done, and the time left."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

try:
    import tqdm
except ModuleNotFoundError:  # a bare GPU image has none, and does without bars
    tqdm = None

T = TypeVar("T")


def bar(items: Iterable[T], name: str, total: int, done: int = 0) -> Iterator[T]:
    """Pass items through under a bar with the time left; rarely redrawn outside a terminal.

    What takes less than a second has none, nor does any process but the first.

    Args:
      items: to go through.
      name: before the bar.
      total: how many items there are, with those done before.
      done: items done before.

    The bar is a `tqdm.tqdm`: `set_postfix_str` shows a figure at its end.
    """
    if tqdm is None:
        return _NoBar(items)
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
    if tqdm is None:
        print(text, file=sys.stderr, flush=True)
    else:
        tqdm.tqdm.write(text, file=sys.stderr)


class _NoBar:
    """Items as they are, with the part of tqdm's interface that is used here."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Nothing is shown."""
