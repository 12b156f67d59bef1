"""Warming up: what the page draws first is compiled in the background, while the page opens."""

import threading

from ddjax.demo.drawing import Studio
from ddjax.demo.requests import Request
from ddjax.runtime import progress


def start(studio: Studio, request: Request) -> None:
    """Begin to compile the methods of a request, one after another; returns at once."""
    threading.Thread(target=_warm, args=(studio, request), daemon=True, name="warming").start()


def _warm(studio: Studio, request: Request) -> None:
    try:
        for method in request.methods:
            progress.line(f"compiling {method} for {request.count} images ...")
            studio.prepare(request, method)
        progress.line("ready")
    except Exception as error:  # the page meets it again when it draws, and says it in words
        progress.line(f"not compiled: {str(error).splitlines()[0]}")
