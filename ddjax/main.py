"""Run the stages that a config names: `python -m ddjax.main --config=configs/digits.py`."""

import functools
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ddjax import workdir
from ddjax.config import STAGES, Config, from_dict
from ddjax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Which config, such as configs/digits.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG by default"
)


def main(argv: list[str]) -> None:
    """Flags to stages; what a user can mend is one line and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    try:
        config = from_dict(_CONFIG.value.to_dict())
        run(config, Path(_WORKDIR.value or f"runs/{config.name}"))
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not workdir.is_disk_full(error):
            raise
        sys.exit(
            "error: the disk is full; nothing is lost. Make room and start the same command again "
            f"({str(error).splitlines()[0]})"
        )


def parse_flags(argv: list[str]) -> list[str]:
    """Flags, with a config key that does not exist as one line instead of a traceback."""
    try:
        return app.parse_flags_with_usage(argv)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (AttributeError, KeyError, TypeError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        sys.exit(f"error: {_wrong_override(argv, error)}")


def _wrong_override(argv: list[str], error: Exception) -> str:
    key = str(error).strip("\"'").split("'")[0].split(" ")[0].split("\n")[0]
    guilty = [arg for arg in argv if arg.startswith("--config.") and f".{key}" in arg]
    return f"{' '.join(guilty)}: the config has no key {key!r} there"


def run(config: Config, root: Path) -> None:
    """Run the stages of a config in a workdir, in their order."""
    begin = time.perf_counter()
    for name in STAGES:
        if name in config.stages:
            _run_stage(config, root, name)
    print(f"{'total':<10} {time.perf_counter() - begin:.0f} s in {root}", flush=True)


def _run_stage(config: Config, root: Path, name: str) -> None:
    # Here, not at the top: a wrong config is refused before the slow imports.
    from ddjax import distill, evaluate, pairs, sample, teacher, tokenizer

    before = STAGES[: STAGES.index(name)]
    folder = name
    if name == "sample":
        before, folder = sample.needs(config.sample_method()), sample.folder(config)
    seconds = 0.0
    for needed in before:
        earlier = workdir.Stage(root, needed, workdir.settings(config, needed))
        earlier.require()
        seconds += earlier.finished["seconds"]
    stages: dict[str, Callable] = {
        "tokenizer": tokenizer.run,
        "teacher": teacher.run,
        "pairs": pairs.run,
        "distill": distill.run,
        "evaluate": functools.partial(evaluate.run, seconds_before=seconds),
        "sample": sample.run,
    }
    stage = workdir.Stage(root, folder, workdir.settings(config, name))
    workdir.run_stage(stage, lambda: stages[name](config, stage))


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
