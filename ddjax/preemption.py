"""SIGTERM, which comes before a machine is taken away: the run ends soon, and nothing is lost.

By default it ends where it is, since files appear whole or not at all. Within `deferred` it goes on
to a point where it has saved. A second SIGTERM ends the process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM  # what a shell shows for a process that the signal ended


class Preempted(BaseException):
    """SIGTERM came; no error, so that nobody who handles errors swallows it."""


class Notice:
    """Whether SIGTERM came."""

    received = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        signal.signal(signal_number, signal.SIG_DFL)
        self.received = True


def watch() -> None:
    """From now on SIGTERM raises `Preempted` in the main thread."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(signal_number: int, frame: FrameType | None) -> None:
    signal.signal(signal_number, signal.SIG_DFL)
    raise Preempted


def deliver_again() -> None:
    """SIGTERM once more, soon: where a finaliser ran, Python passes over what is raised."""
    watch()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()


@contextlib.contextmanager
def deferred() -> Iterator[Notice]:
    """Within, SIGTERM is only noted; `Preempted` is raised at the end, if not by the body."""
    before, notice = signal.getsignal(signal.SIGTERM), Notice()
    signal.signal(signal.SIGTERM, notice)
    try:
        yield notice
    finally:
        if not notice.received:
            signal.signal(signal.SIGTERM, before)
    if notice.received:
        raise Preempted
