"""Requests of the page: what a visitor typed, as arguments of a pipeline."""

import dataclasses
import itertools
import re
from typing import Any

from ddjax.data.conditions import CaptionTexts, Conditions
from ddjax.method import ways
from ddjax.method.guidance import Guidance
from ddjax.method.ways import Way
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError

COUNTS = (1, 2, 4, 8, 16)
LARGEST_SEED = 2**31 - 1

# What the page calls the numbers of conditions.
FIELDS = {"labels": "class", "captions": "caption"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
      call: the conditions of the images, as `Pipeline.__call__` takes them: labels, captions or
        prompts.
      methods: names of the ways of sampling, those of fewest passes first, which are soon seen.
      seed: of the noise.
      guidance: of the teacher.
    """

    call: dict[str, tuple]
    methods: tuple[str, ...]
    seed: int
    guidance: Guidance

    @property
    def count(self) -> int:
        """How many images each method draws."""
        return len(next(iter(self.call.values())))


def read(
    pipe: Pipeline,
    asked: str,
    count: int,
    seed: float | None,
    ticked: list[str],
    others: str,
    guidance: Guidance,
) -> Request:
    """A request from the fields of the page.

    Args:
      pipe: that will draw.
      asked: classes or prompts, as typed.
      count: of the images.
      seed: of the noise.
      ticked: methods.
      others: more of them, with commas between.
      guidance: of the teacher.

    Raises:
      UserError: says which field is wrong, and what would be right.
    """
    if seed is None or seed != int(seed) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed: got {seed}, must be a whole number in 0..{LARGEST_SEED}")
    if count not in COUNTS:
        raise UserError(f"images: got {count}, must be one of {', '.join(map(str, COUNTS))}")
    methods = tuple(dict.fromkeys([*ticked, *re.split(r"[\s,]+", others.strip())]))
    methods = tuple(name for name in methods if name)
    if not methods:
        raise UserError("methods: none is ticked, tick at least one")
    methods = sorted(methods, key=lambda name: ways.parse(name).passes(pipe.groups))
    key, values = conditions(pipe.conditions, asked)
    call = {key: tuple(itertools.islice(itertools.cycle(values), int(count)))}
    return Request(call, tuple(methods), int(seed), guidance)


def conditions(known: Conditions, asked: str) -> tuple[str, list[Any]]:
    """The argument of a pipeline that a text means, and its values; all classes if it is blank.

    Raises:
      UserError: it is no list of classes, or there is no prompt in it.
    """
    if isinstance(known, CaptionTexts):
        prompts = [line.strip() for line in asked.splitlines() if line.strip()]
        if not prompts:
            raise UserError("prompt: it is blank, describe an image")
        return "prompts", prompts
    parts = [part for part in re.split(r"[\s,]+", asked) if part]
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part)]
    if wrong or any(int(part) >= known.count for part in parts):
        found = wrong[0] if wrong else next(part for part in parts if int(part) >= known.count)
        raise UserError(
            f"{FIELDS[known.key]}: got {found}, must be whole numbers in 0..{known.count - 1}, "
            "with commas between"
        )
    return known.key, [int(part) for part in parts] or list(range(known.count))


def methods(pipe: Pipeline, parts: set[str]) -> list[Way]:
    """Ways of sampling that go with the models at hand, those that map noise first.

    Args:
      pipe: that will draw.
      parts: which models there are: "teacher", "student".
    """
    offered = [
        ways.TeacherFlow(),
        *(ways.StudentSteps(n) for n in range(1, len(pipe.settings.steps) + 1)),
        *(ways.Refine(n) for n in (1, 2, 3)),
        ways.TeacherAR(),
    ]
    return [way for way in offered if parts.issuperset(way.reads)]
