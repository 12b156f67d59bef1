"""Ablation command: students over the values of a key, and over seeds.

    python -m ddjax.ablate --config=configs/digits.py --seeds=3 \
        --over="student.steps=0,5;0,3;0,8" --over=pairs.count=5000,10000

Each --over varies one key, and leaves all others as the config has them. Prints a plan, runs what
is not finished, writes ablation.md, ablation.json and curves.png into the workdir. Where no method
of --methods reads a student none is trained, and values.png takes the place of curves.png:

    python -m ddjax.ablate --config=configs/digits.py --over=guidance.scale=1,1.25,1.5,2,3 \
        --methods=teacher_ar
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from ddjax import cli
from ddjax.ablate import curves, plan, results, study, values, variants
from ddjax.config.schema import Config
from ddjax.runtime import hosts
from ddjax.runtime.devices import DEVICES
from ddjax.stages import running

_OVER = flags.DEFINE_multi_string(
    "over", [], "KEY=VALUE,VALUE; lists with semicolons: student.steps=0,5;0,3. May be repeated"
)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Students of each value, or sets of noise", lower_bound=1)
_METHODS = flags.DEFINE_list(
    "methods", ["teacher_flow", "student_1step", "student_2step"], "Ways of sampling to evaluate"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG_ablate by default"
)
_PLAN = flags.DEFINE_bool("plan", False, "Print the plan and stop")
_DEVICE = flags.DEFINE_enum("device", None, list(DEVICES), "Plan the hours on this kind")
_DEVICES = flags.DEFINE_integer("devices", 1, "So many of them", lower_bound=1)
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.3, "Share of the data sheet's rates that is reached"
)


def main(config: Config) -> None:
    """Plan, run and report the ablations that the flags ask for."""
    found = variants.of_overs(config, _OVER.value, _METHODS.value)
    todo = study.Study(config, found, _SEEDS.value)
    root = Path(_WORKDIR.value or f"runs/{config.name}_ablate")
    hardware = None
    if _DEVICE.value:
        hardware = plan.Hardware(_DEVICE.value, _DEVICES.value, _UTILISATION.value)
    if _PLAN.value:
        print(plan.text(todo, root, hardware))
        return
    running.prepare(config, root)
    hosts.print_once(plan.text(todo, root, hardware))
    study.run(todo, root)
    if hosts.is_first():
        numbers = results.collect(todo, root)
        command = " ".join(["python -m ddjax.ablate", *map(shlex.quote, sys.argv[1:])])
        print(f"\n{results.write(root, numbers, command)}\n")
        if results.has_curves(numbers):
            curves.draw(root / "curves.png", numbers)
        else:
            values.draw(root / "values.png", numbers)
        print(f"{root / 'ablation.md'}", flush=True)


if __name__ == "__main__":
    cli.start(main)
