"""Events of the page: what its buttons do, as HTML; whatever goes wrong is said in words."""

import concurrent.futures
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ddjax.demo import requests, words
from ddjax.demo.drawing import Row, Studio, is_out_of_memory
from ddjax.demo.requests import Request
from ddjax.method import ways
from ddjax.runtime.errors import UserError

# Seconds between two states of a clock.
TICK = 0.1
# Comparisons that are over sooner are shown again, so much slower that they take this long.
REPLAY = 4.0


def in_words(event: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """An event that ends in a sentence where it would have raised."""

    @functools.wraps(event)
    def guarded(*arguments: Any) -> Iterator[str]:
        try:
            yield from event(*arguments)
        except UserError as error:
            yield words.error(str(error))
        except Exception as error:
            if is_out_of_memory(error):
                yield words.error("The device has not enough memory for this; ask for fewer images")
                return
            traceback.print_exc()
            yield words.error(
                f"Something went wrong that should not ({type(error).__name__}); the terminal "
                "in which the demo runs shows where"
            )

    return guarded


class Events:
    """The buttons of a page.

    The first arguments of an event are the fields of the page, in the order of `read`.

    Args:
      studio: draws.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def read(
        self, asked: str, count: int, seed: float | None, ticked: list[str], others: str,
        scale: float, temperature: float, top_k: float, top_p: float,
    ) -> Request:
        """The request of the fields.

        Args:
          asked: as of `requests.read`.
          count: likewise.
          seed: likewise.
          ticked: likewise.
          others: likewise.
          scale: of the teacher's guidance, as `Guidance` has it.
          temperature: likewise.
          top_k: likewise.
          top_p: likewise.

        Raises:
          UserError: says which field is wrong, and what would be right.
        """
        pipe, numbers = self.studio.pipe, (scale, temperature, top_k, top_p)
        if None in numbers:
            raise UserError("guidance: a number is missing")
        guidance = dataclasses.replace(
            pipe.settings.guidance, scale=scale, temperature=temperature, top_k=int(top_k),
            top_p=top_p,
        )
        return requests.read(pipe, asked, count, seed, ticked, others, guidance)

    @in_words
    def gallery(self, *fields: Any) -> Iterator[str]:
        """Each method's images, one method after another."""
        request, rows = self.read(*fields), []
        for method in request.methods:
            yield words.gallery(rows, len(request.methods), method)
            self.studio.prepare(request, method)
            rows.append(self.studio.draw(request, method))
        yield words.gallery(rows, len(rows))

    @in_words
    def trajectory(self, k: int, method: str, *fields: Any) -> Iterator[str]:
        """X_k of what a method draws."""
        request = self.read(*fields)
        if not ways.parse(method).maps_noise:
            raise UserError(f"{method} draws at random, there is no path from noise to its image")
        if not self.studio.is_drawn(request, method):
            yield words.status(f"Drawing {method} ...")
        yield words.frames(
            self.studio.frames(request, method, int(k)), int(k), self.studio.pipe.groups.count
        )

    @in_words
    def compare(self, first: str, second: str, *fields: Any) -> Iterator[str]:
        """Two methods one after the other, each alone on the device, with running clocks."""
        request = self.read(*fields)
        for method in (first, second):
            yield words.status(f"Compiling {method} ...")
            self.studio.prepare(request, method)
        yield words.comparison([words.clock(first), words.clock(second)])
        for seconds, left in self._ticking(request, first):
            yield words.comparison([words.clock(first, seconds, left), words.clock(second)])
        for seconds, right in self._ticking(request, second):
            yield words.comparison([
                words.clock(first, 0.0, left), words.clock(second, seconds, right)
            ])
        slowest = max(left.out.seconds, right.out.seconds)
        slower = round(REPLAY / slowest) if slowest < REPLAY / 2 else 1
        yield words.comparison(
            [words.clock(row.method, 0.0, row, slower) for row in (left, right)],
            words.verdict(left, right, slower),
        )

    def _ticking(self, request: Request, method: str) -> Iterator[tuple[float, Row | None]]:
        """Seconds since drawing began, again and again, and at the end what was drawn."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            begin = time.perf_counter()
            drawing = pool.submit(self.studio.draw, request, method)
            while not concurrent.futures.wait([drawing], timeout=TICK).done:
                yield time.perf_counter() - begin, None
            yield time.perf_counter() - begin, drawing.result()
