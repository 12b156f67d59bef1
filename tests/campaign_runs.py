"""The runs of the fault campaign: the real command, what it left at every moment, its result."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from tests.commands import Command

MODELS = ("tokenizer", "teacher", "distill")

# What appears in the course of a run, in this order: the moments of faults.
MOMENTS = (
    "tokenizer/settings.json", "tokenizer/checkpoints/4", "tokenizer/checkpoints/12",
    "tokenizer/model", "tokenizer/finished.json",
    "teacher/settings.json", "teacher/checkpoints/4", "teacher/checkpoints/12", "teacher/model",
    "pairs/settings.json", "pairs/manifest.json", "pairs/pairs-00000.array_record",
    "pairs/pairs-00001.array_record", "pairs/finished.json",
    "distill/perceptual_net/checkpoints/4", "distill/perceptual_net/model",
    "distill/checkpoints/4", "distill/checkpoints/12", "distill/model",
    "evaluate/settings.json", "feature_net/checkpoints/4", "feature_net/model",
    "metrics.json", "sample", "finished",
)

# Seconds after which a process counts as hanging, and what stands for its exit code.
LIMIT, HANGING = 400, -signal.SIGALRM


class Ended(NamedTuple):
    """How a process ended: exit code, and the lines of its errors without progress bars."""

    code: int
    errors: list[str]

    def __str__(self) -> str:
        return f"exit code {self.code}: " + " / ".join(self.errors[-6:])


class Job:
    """The command of a user, with its workdir.

    Args:
      root: the workdir.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, *flags: str, devices: int = 1) -> Command:
        """Start the command."""
        environment = {}
        if devices > 1:
            flag = f"--xla_force_host_platform_device_count={devices}"
            environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        return Command(
            "ddjax.main", "--config=tests/campaign_job.py", f"--workdir={self.root}", *flags,
            errors=True, environment=environment,
        )

    def run(self, *flags: str, devices: int = 1) -> Ended:
        """The command from start to end."""
        return ended(self.start(*flags, devices=devices))

    def repair(self) -> Ended:
        """What the command tells to do with damaged pairs."""
        return ended(Command("ddjax.pairs", "repair", self.root, errors=True))


def ended(process: Command, limit: float = LIMIT) -> Ended:
    """Wait for the end; one that hangs is killed."""
    try:
        _, errors = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        errors, code = f"{process.communicate()[1]}\nno end in {limit} s", HANGING
    lines = re.split(r"[\r\n]+", errors)
    return Ended(code, [line for line in lines if line.strip() and not re.search(r"\d%\|", line)])


def wait_for(process: Command, path: Path) -> None:
    """Until a file or folder is there, or the process has ended."""
    end = time.monotonic() + LIMIT
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


class Reference(NamedTuple):
    """The undisturbed run: its result, and what a kill would have left at every moment."""

    folder: Path
    result: dict[str, str]

    def state(self, moment: str) -> Path:
        """The workdir as it was then."""
        return self.folder / moment.replace("/", "-")


def make_reference(folder: Path) -> Reference:
    """Run the command undisturbed; it is only held for as long as its workdir is copied.

    Raises:
      RuntimeError: it fails.
    """
    reference = Reference(folder, {})
    root = reference.state("finished")
    process = Job(root).start()
    for moment in MOMENTS[:-1]:
        wait_for(process, root / moment)
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            shutil.copytree(root, reference.state(moment))
            process.send_signal(signal.SIGCONT)
    end = ended(process)
    if end.code:
        raise RuntimeError(f"the undisturbed run fails: {end}")
    return reference._replace(result=result(root))


def result(root: Path) -> dict[str, str]:
    """All that a run is for: weights, pairs and images by their digests, figures without times."""
    paths = [path for name in MODELS for path in root.glob(f"{name}/model/*")]
    paths += [*root.glob("pairs/*.array_record"), *root.glob("sample/*/images.npz")]
    found = {str(path.relative_to(root)): digest(path) for path in paths}
    for path in root.glob("metrics.json"):
        found[path.name] = _without_times(path)
    return found


def _without_times(path: Path) -> str:
    """The figures of metrics.json that depend on no time."""
    try:
        metrics = json.loads(path.read_bytes())
        rows = metrics["rows"]
    except (ValueError, TypeError, KeyError):
        return digest(path)  # damaged
    for part in (metrics, *rows):
        for key in ("measuring_share", "seconds_total", "seconds_per_image", "speedup"):
            part.pop(key, None)
    return json.dumps(metrics, sort_keys=True)


def digests(root: Path) -> dict[str, str]:
    """Of every file of a workdir."""
    return {
        str(path.relative_to(root)): digest(path) for path in root.rglob("*") if path.is_file()
    }


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Files of before whose content is no more: neither at its place nor under another name.

    But for what a run that goes on replaces: checkpoints older than the two that it keeps.
    """
    moved = {found for name, found in after.items() if name not in before}
    return [
        name for name, found in before.items()
        if after.get(name) != found and found not in moved and not _outdated(name, after)
    ]


def _outdated(name: str, after: dict[str, str]) -> bool:
    training, _, rest = name.rpartition("checkpoints/")
    if not training or name in after:
        return False
    steps = {
        int(step) for other in after if other.startswith(f"{training}checkpoints/")
        for step in [other.removeprefix(f"{training}checkpoints/").split("/")[0]] if step.isdigit()
    }
    step = rest.split("/")[0]
    return not step.isdigit() or sum(other > int(step) for other in steps) >= 2


def largest_difference(folder: Path, other: Path) -> float:
    """Between the weights of two model folders, relative to the largest weight of its array."""
    here, there = (
        safetensors.numpy.load_file(path / "weights.safetensors") for path in (folder, other)
    )
    return max(
        float(np.max(np.abs(here[name] - there[name])) / (np.max(np.abs(there[name])) + 1e-9))
        for name in there
    )
