"""Drawing for the page: methods on the same noise, with time and passes."""

import collections
import dataclasses
import functools
import threading
from typing import Any

import jax
import numpy as np

from ddjax.demo import memory
from ddjax.demo.requests import Request
from ddjax.method import ways
from ddjax.method.guidance import Guidance
from ddjax.method.ways import Way
from ddjax.pipeline import Output, Pipeline
from ddjax.runtime.errors import UserError

# The map that students learn, whose tokens those of the others are compared with.
MAP = ways.TeacherFlow()

# Seconds: what is over sooner is drawn twice before its time is told.
SOON = 1.0


@dataclasses.dataclass(frozen=True)
class Row:
    """What a method drew.

    Attributes:
      method: its name.
      passes: of networks, for an image.
      out: the images.
      about: of each image, what it takes to draw it again.
    """

    method: str
    passes: int
    out: Output
    about: list[dict[str, Any]]

    @property
    def milliseconds(self) -> float:
        """For an image, from noise to pixels."""
        return self.out.seconds / len(self.out.ids) * 1e3

    def equal(self, other: "Row") -> float:
        """Share of tokens that equal those of another row of the same noise."""
        return float(np.mean(self.out.ids == other.out.ids))


class Studio:
    """A pipeline, and others for guidance that a visitor sets; programs are compiled once."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe
        self._guided = functools.lru_cache(maxsize=4)(pipe.guided)
        self._compiling: dict[tuple, threading.Lock] = collections.defaultdict(threading.Lock)
        self._ran: set[tuple[Guidance, Way, int]] = set()
        self._last: tuple[tuple[Request, str], Row] | None = None

    def of(self, guidance: Guidance) -> Pipeline:
        """The pipeline that draws with this guidance."""
        return self.pipe if guidance == self.pipe.settings.guidance else self._guided(guidance)

    def prepare(self, request: Request, method: str) -> None:
        """Compile what a method takes for this many images; waits where another thread does so.

        Raises:
          UserError: they do not fit into memory, or the method has not what it needs.
        """
        way, pipe = ways.parse(method), self.of(request.guidance)
        conditions = None
        if "prompts" in request.call:
            conditions = pipe.conditions.of_prompts(request.call["prompts"])
        with self._compiling[request.guidance, way, request.count]:
            needed = pipe.prepare(way, request.count, conditions=conditions)
        free = memory.free(pipe.mesh.devices.flat[0])
        if free is not None and needed > free:
            raise UserError(
                f"{request.count} images by {method} take {needed / 2**30:.1f} GiB of memory, and "
                f"{free / 2**30:.1f} GiB are free; ask for fewer images"
            )

    def draw(self, request: Request, method: str) -> Row:
        """The images of a request by one method.

        Raises:
          UserError: as `Pipeline.__call__`.
        """
        way, pipe = ways.parse(method), self.of(request.guidance)
        call = {**request.call, "method": method, "seed": request.seed}
        out = pipe(**call)
        program = request.guidance, way, request.count
        if program not in self._ran and out.seconds < SOON:
            out = pipe(**call)  # the first run of a program is slower
        self._ran.add(program)
        guidance = dataclasses.asdict(request.guidance)
        about = [
            {"call": call, "position": i, "title": title, "guidance": guidance}
            for i, title in enumerate(out.titles)
        ]
        return Row(method, way.passes(pipe.groups), out, about)

    def is_drawn(self, request: Request, method: str) -> bool:
        """Whether `frames` has at hand what a method drew."""
        return self._last is not None and self._last[0] == (request, method)

    def frames(self, request: Request, method: str, k: int) -> Row:
        """X_k of what a method draws: its row, with the images on the way to it."""
        if not self.is_drawn(request, method):
            self.prepare(request, method)
            self._last = (request, method), self.draw(request, method)
        row, pipe = self._last[1], self.of(request.guidance)
        images = pipe.images_at(k, row.out.ids, pipe.noise(request.count, request.seed))
        return dataclasses.replace(row, out=dataclasses.replace(row.out, images=images))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
