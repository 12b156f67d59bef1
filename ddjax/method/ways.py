"""Ways of sampling: teacher, student, refinement, teacher-involved, and the paper's baselines.

A way is a small frozen class with a name for configs and reports. To add one, write its class here
and list it in `WAYS`.
"""

import dataclasses
import re
from typing import ClassVar

import jax

from ddjax.method import baselines, trajectory
from ddjax.method.groups import Groups
from ddjax.method.sampling import Batch, Drawn, Settings, self_refined
from ddjax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of sampling; its fields are the numbers in its name.

    Attributes:
      pattern: its name, with the fields in braces.
      reads: the fields of `Models` that it needs, beside the tokenizer.
      maps_noise: whether the image is a function of noise and condition alone.
      continues: whether it can start from a prefix of ids.
      runs_a_network: whether a network draws, so that its time means something.
      needs_classes: whether it makes sense for conditions on classes alone.
      has_log_probs: whether there are log-probabilities of a network behind the ids.
    """

    pattern: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    maps_noise: ClassVar[bool] = False
    continues: ClassVar[bool] = True
    runs_a_network: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False
    has_log_probs: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As in configs and reports."""
        return self.pattern.format(**dataclasses.asdict(self))

    def passes(self, groups: Groups) -> int:
        """Network passes for one image."""
        raise NotImplementedError

    def problem(self, groups: Groups, settings: Settings) -> str:
        """What is wrong with the numbers; "" if nothing."""
        del groups, settings
        return ""

    def draw(self, batch: Batch) -> Drawn:
        """Ids and vectors of a batch."""
        raise NotImplementedError

    def log_probs(self, batch: Batch, drawn: Drawn) -> jax.Array:
        """Log-probabilities [B, L, V] behind the ids, where `has_log_probs`.

        By default the teacher's, given the ids before each.
        """
        return batch.teacher.log_probs(drawn.ids_BL, batch.condition)


@dataclasses.dataclass(frozen=True)
class TeacherAR(Way):
    """The teacher's own sampling: every token drawn at random, group after group."""

    pattern = "teacher_ar"
    reads = ("teacher",)
    has_log_probs = True

    def passes(self, groups: Groups) -> int:
        return groups.count

    def draw(self, batch: Batch) -> Drawn:
        return batch.coded(
            trajectory.sample_ids(batch.teacher, batch.condition, batch.keys_B, batch.prefix_BP)
        )


@dataclasses.dataclass(frozen=True)
class TeacherFlow(Way):
    """The exact map: every token by its noise, under the teacher's distribution."""

    pattern = "teacher_flow"
    reads = ("teacher",)
    maps_noise = True
    has_log_probs = True

    def passes(self, groups: Groups) -> int:
        return groups.count

    def draw(self, batch: Batch) -> Drawn:
        return batch.coded(
            trajectory.map_noise(
                batch.teacher, batch.condition, batch.eps_BLC, batch.codes_VC,
                batch.settings.solver, batch.prefix_BP,
            )
        )


@dataclasses.dataclass(frozen=True)
class StudentSteps(Way):
    """The student in one or more steps, at the first values of `Settings.steps`."""

    pattern = "student_{steps}step"
    reads = ("student",)
    maps_noise = True
    has_log_probs = True
    steps: int

    def passes(self, groups: Groups) -> int:
        return self.steps

    def problem(self, groups: Groups, settings: Settings) -> str:
        known = len(settings.steps)
        return "" if 1 <= self.steps <= known else f"student.steps has {known} steps"

    def draw(self, batch: Batch) -> Drawn:
        first = batch.first_group
        later = batch.settings.steps[1 : self.steps]
        return batch.student((first, *(k for k in later if k > first)))

    def log_probs(self, batch: Batch, drawn: Drawn) -> jax.Array:
        """[B, L, V], by the student's logits in its last step."""
        return drawn.log_probs()


@dataclasses.dataclass(frozen=True)
class SelfRefine(Way):
    """One step of the student, then further passes from its noise and its own last codes (ours).

    Of a `ddjax.method.protocols.RefiningStudent`; all tokens are read from the logits.
    """

    pattern = "self_refine_{further_passes}"
    reads = ("student",)
    maps_noise = True
    continues = False
    has_log_probs = True
    further_passes: int

    def passes(self, groups: Groups) -> int:
        return 1 + self.further_passes

    def problem(self, groups: Groups, settings: Settings) -> str:
        return "" if self.further_passes >= 1 else "needs at least one further pass"

    def draw(self, batch: Batch) -> Drawn:
        return self_refined(
            batch.models.student, batch.codes_VC, batch.eps_BLC, batch.condition,
            1 + self.further_passes,
        )

    def log_probs(self, batch: Batch, drawn: Drawn) -> jax.Array:
        """[B, L, V], by the student's logits in its last pass."""
        return drawn.log_probs()


@dataclasses.dataclass(frozen=True)
class TeacherInvolved(Way):
    """Student, then the teacher for groups first .. last - 1 from 0, then the student.

    Section 4.2 of the paper, whose tables count groups from 1.
    """

    pattern = "teacher_involved_{first}_{last}"
    reads = ("teacher", "student")
    continues = False
    first: int
    last: int

    def passes(self, groups: Groups) -> int:
        return int(self.first > 0) + (self.last - self.first) + int(self.last < groups.count)

    def problem(self, groups: Groups, settings: Settings) -> str:
        holds = 0 <= self.first < self.last <= groups.count
        return "" if holds else f"needs 0 <= first < last <= {groups.count} groups"

    def draw(self, batch: Batch) -> Drawn:
        groups, prefix = batch.models.groups, batch.prefix_BP
        if self.first:
            prefix = batch.student((0,)).ids_BL[:, : groups.starts[self.first]]
        ids = trajectory.sample_ids(
            batch.teacher, batch.condition, batch.keys_B, prefix, stop=self.last
        )
        if self.last == groups.count:
            return batch.coded(ids)
        return batch.student((self.last,), prefix_BP=ids)


@dataclasses.dataclass(frozen=True)
class Refine(Way):
    """One step of the student, then passes of the teacher over all tokens at once (ours).

    See `ddjax.method.trajectory.refine`. A prefix of whole images takes the student's place.
    """

    pattern = "refine_{passes_of_teacher}"
    reads = ("teacher", "student")
    maps_noise = True
    has_log_probs = True
    passes_of_teacher: int

    def passes(self, groups: Groups) -> int:
        return 1 + self.passes_of_teacher

    def problem(self, groups: Groups, settings: Settings) -> str:
        return "" if self.passes_of_teacher >= 1 else "needs at least one pass"

    def draw(self, batch: Batch) -> Drawn:
        return batch.coded(self._refined(batch, self.passes_of_teacher))

    def log_probs(self, batch: Batch, drawn: Drawn) -> jax.Array:
        """[B, L, V], by the teacher in its last pass."""
        before = self._refined(batch, self.passes_of_teacher - 1)
        return batch.teacher.log_probs(before, batch.condition)

    def _refined(self, batch: Batch, passes: int) -> jax.Array:
        first = batch.first_group
        whole = first == batch.models.groups.count
        return trajectory.refine(
            batch.teacher, batch.condition, batch.eps_BLC, batch.codes_VC, batch.settings.solver,
            batch.prefix_BP if whole else batch.student((first,)).ids_BL, passes,
        )


@dataclasses.dataclass(frozen=True)
class Skip(Way):
    """The teacher stops some groups early; the rest from the marginals of the condition's bucket.

    The paper's baseline skip-n.
    """

    pattern = "skip_{groups_skipped}"
    reads = ("teacher", "marginals")
    groups_skipped: int

    def passes(self, groups: Groups) -> int:
        return groups.count - self.groups_skipped

    def problem(self, groups: Groups, settings: Settings) -> str:
        holds, most = 1 <= self.groups_skipped < groups.count, groups.count - 1
        return "" if holds else f"can skip 1 to {most} of {groups.count} groups"

    def draw(self, batch: Batch) -> Drawn:
        return batch.coded(
            baselines.skip(
                batch.teacher, batch.condition, batch.models.marginals, batch.bucket_B,
                self.groups_skipped, batch.keys_B, batch.prefix_BP,
            )
        )


@dataclasses.dataclass(frozen=True)
class OneStepClass(Way):
    """Every token drawn from its marginal given the class; the paper's baseline onestep*."""

    pattern = "onestep_class"
    reads = ("marginals",)
    continues = False
    runs_a_network = False
    needs_classes = True

    def passes(self, groups: Groups) -> int:
        return 1

    def draw(self, batch: Batch) -> Drawn:
        bucket_B = batch.bucket_B if self.needs_classes else None
        return batch.coded(baselines.onestep(batch.models.marginals, bucket_B, batch.keys_B))


@dataclasses.dataclass(frozen=True)
class OneStepAll(OneStepClass):
    """Every token drawn from its marginal over all images."""

    pattern = "onestep_all"
    needs_classes = False


WAYS: tuple[type[Way], ...] = (
    TeacherAR, TeacherFlow, StudentSteps, SelfRefine, TeacherInvolved, Refine, Skip, OneStepClass,
    OneStepAll,
)


def parse(name: str) -> Way:
    """The way of a name, such as refine_1.

    Raises:
      UserError: there is none of that name.
    """
    for way in WAYS:
        fields = [field.name for field in dataclasses.fields(way)]
        pattern = way.pattern.format(**{field: rf"(?P<{field}>\d+)" for field in fields})
        if match := re.fullmatch(pattern, name):
            return way(**{field: int(number) for field, number in match.groupdict().items()})
    known = ", ".join(re.sub(r"\{\w+\}", "N", way.pattern) for way in WAYS)
    raise UserError(f"sampling method {name!r} is unknown; known are {known}")
