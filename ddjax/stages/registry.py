"""Registry of stages: what each reads, which sections of the config decide it, its output files.

To add a stage, list it here and write `ddjax/stages/NAME.py` with `run(config, directory)`, which
returns one line about what it did.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from types import ModuleType

from ddjax.config.schema import MAP, Config
from ddjax.method import ways
from ddjax.runtime.errors import UserError
from ddjax.storage.model_folder import REPAIR_HINT
from ddjax.storage.run_models import FOLDERS, PAIRS_REPAIR_HINT

# Where a model that was trained in a run lies, from the folder of its stage.
MODEL = ("model/config.json", "model/weights.safetensors")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
      name: of its folder and its module.
      reads: the earlier stages whose output it needs.
      sections: of the config, that decide what it makes beside those of the stages it reads.
      output: patterns of the files that it is run for, from its folder.
      model: the section of the config whose `weights` may take its place.
      repair: how damaged output is made again, of its folder and name; by default the stage is run.
      many: whether each run has a folder of its own below the stage's, by the module's
        `folder_name(config)`.
    """

    name: str
    reads: Callable[[Config], Iterable[str]]
    sections: tuple[str, ...]
    output: tuple[str, ...]
    model: str = ""
    repair: str = ""
    many: bool = False

    @property
    def module(self) -> ModuleType:
        """Imported when asked for: a wrong config is refused before the slow imports."""
        return importlib.import_module(f"ddjax.stages.{self.name}")

    def folder(self, config: Config) -> str:
        """Its folder, from the workdir."""
        return f"{self.name}/{self.module.folder_name(config)}" if self.many else self.name


def _always(*names: str) -> Callable[[Config], Iterable[str]]:
    return lambda config: names


def _read_by(config: Config, methods: Iterable[str]) -> set[str]:
    """The stages that these ways of sampling read."""
    parts = {part for name in methods for part in ways.parse(name).reads}
    return {"tokenizer", *(FOLDERS[part] for part in parts)}


def _distill_reads(config: Config) -> Iterable[str]:
    return {"tokenizer", "teacher"} | ({"pairs"} if MAP in config.distill.method else set())


def _evaluate_reads(config: Config) -> Iterable[str]:
    # All distances are to the teacher's samples.
    return {"teacher", *_read_by(config, config.evaluate.methods)}


def _sample_reads(config: Config) -> Iterable[str]:
    return _read_by(config, [config.sample.method])


# In their order.
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "tokenizer", _always(), ("data", "tokenizer"), MODEL, model="tokenizer",
            repair=REPAIR_HINT,
        ),
        Stage(
            "teacher", _always("tokenizer"), ("data", "teacher"), MODEL, model="teacher",
            repair=REPAIR_HINT,
        ),
        Stage(
            "pairs", _always("tokenizer", "teacher"), ("guidance", "flow", "pairs"),
            ("*.array_record",), repair=PAIRS_REPAIR_HINT,
        ),
        Stage(
            "distill", _distill_reads, ("student", "distill"), MODEL,
            model="student", repair=REPAIR_HINT,
        ),
        Stage(
            "evaluate", _evaluate_reads, ("data", "guidance", "flow", "student", "evaluate"),
            ("../metrics.json", "../report.md"),
        ),
        Stage(
            "sample", _sample_reads, ("data", "guidance", "flow", "student", "sample"),
            ("images.npz",), many=True,
        ),
    )
}


def chosen(config: Config) -> list[Stage]:
    """The stages that a config names, in their order.

    Raises:
      UserError: one is unknown, or there is none.
    """
    for name in config.stages:
        if name not in STAGES:
            raise UserError(f"config.stages: got {name}, must be among {', '.join(STAGES)}")
    if not config.stages:
        raise UserError(f"config.stages: got none, must be one or more of {', '.join(STAGES)}")
    return [stage for stage in STAGES.values() if stage.name in config.stages]


def reads(config: Config, stage: Stage) -> list[Stage]:
    """The stages whose output a stage needs, in their order."""
    names = set(stage.reads(config))
    return [earlier for earlier in STAGES.values() if earlier.name in names]


def for_evaluation(config: Config) -> list[Stage]:
    """The stage evaluate, and those before it that it needs and no model folder replaces."""
    needed = [STAGES["evaluate"]]
    for stage in needed:
        needed += [
            earlier for earlier in reads(config, stage) if earlier not in needed
            and not (earlier.model and getattr(config, earlier.model).weights)
        ]
    return [stage for stage in STAGES.values() if stage in needed]
