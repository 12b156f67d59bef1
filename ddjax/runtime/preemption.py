"""Preemption: SIGTERM, sent before a machine is taken away, and Ctrl-C; nothing is lost.

By default it ends where it is, since writes are atomic. Within `deferred` it goes on to a point
where it has saved. A second signal ends the process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Preempted(BaseException):
    """A signal came; a BaseException, so that no `except Exception` catches it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(SIGNALS[number])
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell shows for a process that the signal ended: 143, and 130 for Ctrl-C."""
        return 128 + self.number


class Notice:
    """Which signal came, if any."""

    received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        _end_at_the_next()
        self.received = number


def watch() -> None:
    """From now on SIGTERM and Ctrl-C raise `Preempted` in the main thread."""
    for number in SIGNALS:
        # Who runs a command in the background may have Ctrl-C ignored, for all that it starts.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


def _is_ours(number: int) -> bool:
    handler = signal.getsignal(number)
    return handler is _raise or isinstance(handler, Notice)


def _raise(number: int, frame: FrameType | None) -> None:
    _end_at_the_next()
    raise Preempted(number)


def _end_at_the_next() -> None:
    for number in filter(_is_ours, SIGNALS):
        signal.signal(number, signal.SIG_DFL)


def deliver_again(number: int) -> None:
    """The signal once more, soon: Python ignores exceptions in finalisers."""
    watch()
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


@contextlib.contextmanager
def deferred() -> Iterator[Notice]:
    """Within, a signal is only noted; `Preempted` is raised at the end, if not by the body.

    Ctrl-C is left alone where `watch` has not taken it, as in a notebook.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGINT] is not _raise:
        del before[signal.SIGINT]
    notice = Notice()
    for number in before:
        signal.signal(number, notice)
    try:
        yield notice
    finally:
        if not notice.received:
            for number, handler in before.items():
                signal.signal(number, handler)
    if notice.received:
        raise Preempted(notice.received)
