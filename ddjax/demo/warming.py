"""Warming up: what the page draws first is compiled in the background, while the page opens."""

import threading
from collections.abc import Iterator

from ddjax.demo.drawing import Studio
from ddjax.demo.requests import Request
from ddjax.runtime import progress


class Warming:
    """Compiles each method of a request, in a thread; `steps` follows it."""

    def __init__(self, studio: Studio, request: Request) -> None:
        self._studio, self._request = studio, request
        self._done, self._changed = 0, threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="warming")

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def steps(self) -> Iterator[tuple[int, int, str]]:
        """How many methods are done, of how many, and which is next, until all are."""
        methods, seen = self._request.methods, 0
        while seen < len(methods) and self._thread.is_alive():
            yield seen, len(methods), methods[seen]
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._done > seen, timeout=0.5)
                seen = self._done

    def _run(self) -> None:
        try:
            for method in self._request.methods:
                progress.line(f"compiling {method} for {self._request.count} images ...")
                self._studio.prepare(self._request, method)
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()
            progress.line("ready")
        except Exception as error:  # the page meets it again when it draws, and says it in words
            progress.line(f"not compiled: {str(error).splitlines()[0]}")
