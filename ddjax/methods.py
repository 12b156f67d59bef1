"""The names of the ways to make an image, and how many network passes each takes."""

import dataclasses
import re
from collections.abc import Callable

from ddjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of sampling; `first` and `last` are its numbers, where it has any.

    kind              name                      numbers
    teacher_ar        teacher_ar                every token drawn at random
    teacher_flow      teacher_flow              the exact map of the noise
    student           student_{n}step           n steps, `first`
    teacher_involved  teacher_involved_{n}_{m}  student, teacher for groups n..m-1 from 0, student
    refine            refine_{n}                1 student step, then n passes of the teacher
    skip              skip_{n}                  the teacher stops n groups early
    onestep_class     onestep_class             every token from its marginal given the class
    onestep_all       onestep_all               every token from its marginal over all images
    """

    kind: str
    first: int = 0
    last: int = 0

    @classmethod
    def parse(cls, name: str) -> "Method":
        """The method of a name.

        Raises:
          UserError: there is none of that name.
        """
        for kind, (pattern, *_) in _KINDS.items():
            match = re.fullmatch(pattern.format(r"(\d+)", r"(\d+)"), name)
            if match:
                return cls(kind, *(int(number) for number in match.groups()))
        raise _unknown(name)

    @classmethod
    def from_parts(cls, name: str, passes: int, first: int, last: int) -> "Method":
        """The method of a kind and its numbers apart, or of a whole name.

        Raises:
          UserError: there is none of that name.
        """
        numbers = {
            "student": (passes,), "refine": (passes,), "skip": (passes,),
            "teacher_involved": (first, last),
        }
        if name in _KINDS:
            return cls(name, *numbers.get(name, ()))
        return cls.parse(name)

    @property
    def name(self) -> str:
        """As in reports and configs."""
        return _KINDS[self.kind][0].format(self.first, self.last)

    def passes(self, groups: int) -> int:
        """Network passes for one image of a teacher with that many groups."""
        return _KINDS[self.kind][1](self, groups)

    @property
    def reads(self) -> tuple[str, ...]:
        """The stages whose output it needs, beside the tokenizer's."""
        return _KINDS[self.kind][2]

    def problem(self, groups: int, student_steps: int) -> str:
        """What is wrong with the numbers, for that many groups and student steps; "" if nothing."""
        if self.kind == "student" and not 1 <= self.first <= student_steps:
            return f"student.steps has {student_steps} steps"
        if self.kind == "teacher_involved" and not 0 <= self.first < self.last <= groups:
            return f"needs 0 <= first < last <= {groups} groups"
        if self.kind == "refine" and self.first < 1:
            return "needs at least one pass"
        if self.kind == "skip" and not 1 <= self.first < groups:
            return f"can skip 1 to {groups - 1} of {groups} groups"
        return ""


def _involved_passes(method: Method, groups: int) -> int:
    return int(method.first > 0) + (method.last - method.first) + int(method.last < groups)


# By kind: the pattern of its name, its network passes, the stages that it reads.
_KINDS: dict[str, tuple[str, Callable[[Method, int], int], tuple[str, ...]]] = {
    "teacher_ar": ("teacher_ar", lambda m, groups: groups, ("teacher",)),
    "teacher_flow": ("teacher_flow", lambda m, groups: groups, ("teacher",)),
    "student": ("student_{}step", lambda m, groups: m.first, ("distill",)),
    "teacher_involved": ("teacher_involved_{}_{}", _involved_passes, ("teacher", "distill")),
    "refine": ("refine_{}", lambda m, groups: 1 + m.first, ("teacher", "distill")),
    "skip": ("skip_{}", lambda m, groups: groups - m.first, ("teacher", "pairs")),
    "onestep_class": ("onestep_class", lambda m, groups: 1, ("pairs",)),
    "onestep_all": ("onestep_all", lambda m, groups: 1, ("pairs",)),
}


def _unknown(name: str) -> UserError:
    known = ", ".join(pattern.format("N", "M") for pattern, *_ in _KINDS.values())
    return UserError(f"sampling method {name!r} is unknown; known are {known}")
