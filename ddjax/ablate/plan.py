"""Plan of a study: what is made where, and the hours it takes, before it is begun."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ddjax.ablate.study import SHARED, Study
from ddjax.config.schema import MAP, SCORE, Config
from ddjax.plan import stages as costs
from ddjax.runtime import sharding
from ddjax.runtime.devices import DEVICES
from ddjax.stages.registry import Stage
from ddjax.storage.workdir import Folder


class Hardware(NamedTuple):
    """What the hours are of: see `ddjax.plan`."""

    kind: str
    devices: int
    utilisation: float


class Work(NamedTuple):
    """A row: what is made in one folder."""

    where: str
    trained: str
    pairs: int
    steps: int
    students: int
    evaluations: int
    finished: int
    hours: float


def text(study: Study, root: Path, hardware: Hardware | None) -> str:
    """The plan as Markdown; without hardware there are no hours.

    Raises:
      UserError: a batch or a mesh that these devices cannot share, or a utilisation that is none.
    """
    if hardware:
        costs.check_utilisation(hardware.utilisation)
    rows = list(_works(study, root, hardware))
    head = ["folder", "trained once", "pairs made", "students", "steps of each", "evaluated"]
    head += ["hours"] if hardware else []
    lines = [
        f"{study.base.name}: {len(study.distinct)} variants with {study.seeds} "
        f"seed{'s' * (study.seeds > 1)} each, in {root}",
        "",
        "| " + " | ".join(head) + " |",
        "| --- | --- |" + " ---: |" * (len(head) - 2),
        *(_row(row, hardware is not None) for row in rows),
    ]
    if hardware:
        lines += [
            f"| **together** | | | | | | {sum(row.hours for row in rows):.1f} |",
            "",
            f"Hours of pairs and students on {hardware.devices} x {hardware.kind} at "
            f"{hardware.utilisation:.0%} of its data sheet, as `python -m ddjax.plan` estimates "
            "them; other trainings, validation and evaluation come on top.",
        ]
    else:
        lines += ["", f"Hours: add --device, one of {', '.join(DEVICES)}."]
    return "\n".join(lines)


def _row(row: Work, with_hours: bool) -> str:
    cells = [row.where, row.trained, row.pairs or "", row.students or "", row.steps or "",
             f"{row.finished} of {row.evaluations}" if row.evaluations else ""]
    cells += [f"{row.hours:.1f}"] if with_hours else []
    return "| " + " | ".join(map(str, cells)) + " |"


def _works(study: Study, root: Path, hardware: Hardware | None) -> Iterator[Work]:
    shared = study.shared_stages()
    pairs = study.shared.pairs.count if "pairs" in (stage.name for stage in shared) else 0
    hours = _hours(study.shared, hardware, pairs=bool(pairs))
    yield Work(SHARED, _trained(study.base, shared), pairs, 0, 0, 0, 0, hours)
    students = study.seeds * study.has_students
    for variant in study.distinct:
        config, own = variant.config, study.own_stages(variant.config)
        makes = "pairs" in (stage.name for stage in own) and not study.takes_pairs(config)
        workdirs = [workdir for _, workdir in study.runs(root, variant)]
        done = sum(Folder(workdir / "evaluate", {}).finished is not None for workdir in workdirs)
        hours = _hours(config, hardware, pairs=makes, students=students)
        yield Work(
            variant.name, _trained(config, own), config.pairs.count if makes else 0,
            _steps(config) * study.has_students, students, study.seeds, done, hours,
        )


def _trained(config: Config, stages: list[Stage]) -> str:
    """The trainings among stages, with their steps."""
    return ", ".join(
        f"{stage.name} {getattr(config, stage.name).train.steps} steps"
        for stage in stages if stage.model
    )


def _steps(config: Config) -> int:
    """Of a student's trainings together."""
    section = config.distill
    steps = section.train.steps * (MAP in section.method)
    return steps + (section.score.train.steps if SCORE in section.method else 0)


def _hours(
    config: Config, hardware: Hardware | None, *, pairs: bool, students: int = 0
) -> float:
    if hardware is None or not (pairs or students):
        return 0.0
    device, devices = DEVICES[hardware.kind], hardware.devices
    sharding.check_mesh(config.mesh.fsdp, devices)
    costs.check_batches(config, devices)
    nets, hours = costs.models(config), 0.0
    if pairs:
        hours += costs.pairs_stage(config, nets, devices).hours(device, hardware.utilisation)
    if students:
        trainings = costs.training_stages(config, nets, devices)
        hours += students * sum(one.hours(device, hardware.utilisation) for one in trainings)
    return hours
