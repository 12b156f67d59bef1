"""MLIR context: one for all programs of a thread, by importing this; jax 0.12 does so itself.

Earlier ones make one for each program, in a quarter of the time that a small one takes to compile.
"""

import threading

import jax
from jax._src.interpreters import mlir

make = mlir.make_ir_context


class OfThread(threading.local):
    """What a thread first asks for is made then."""

    def __init__(self):
        self.context = make()


def share():
    """Give each thread one context."""
    mine = OfThread()
    mlir.make_ir_context = lambda: mine.context


if jax.__version_info__ < (0, 12):
    share()
