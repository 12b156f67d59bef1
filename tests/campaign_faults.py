"""The faults of the fault campaign, one function a kind."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.campaign_runs import (
    HANGING,
    MODELS,
    MOMENTS,
    Ended,
    Job,
    Reference,
    ended,
    largest_difference,
    result,
    wait_for,
)

# Seconds from SIGTERM to the end: a step, its checkpoint, and the threads that write events.
SOON = 60

# Of weights trained on another number of devices, relative to the largest of their array: sums run
# in another order. Undisturbed runs on 2 and 4 devices, fsdp 1 and 2, differ from the one on a
# single device by 2e-7 to 4e-6.
TOLERANCE = 5e-5


class Arena(NamedTuple):
    """Where a round takes place."""

    reference: Reference
    folder: Path

    def begin(self, moment: str | None) -> Job:
        """The workdir as a kill at this moment would have left it; None: there is none."""
        root = self.folder / "run"
        if moment is not None:
            shutil.copytree(self.reference.state(moment), root)
        return Job(root)

    @property
    def disk(self) -> Path:
        """Where a small file system is mounted, in a round that has one."""
        return self.folder / "disk"

    def end(self, keep: bool) -> None:
        """Leave nothing behind, or all but a file system."""
        if self.disk.is_mount():
            subprocess.run(["umount", str(self.disk)], check=True)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


class Fault(NamedTuple):
    """What was inflicted, and by what the end is judged.

    Attributes:
      text: for the report.
      root: the workdir.
      judge: what is wrong with a workdir in which the command has ended well, or "".
      damaged: the file that was damaged, if any.
      flags: of the command that goes on.
      devices: it goes on with.
      failure: what went wrong already while the fault was inflicted.
    """

    text: str
    root: Path
    judge: Callable[[Path], str]
    damaged: Path | None = None
    flags: tuple[str, ...] = ()
    devices: int = 1
    failure: str = ""


class Skipped(Exception):
    """A fault that cannot be inflicted here; says why."""


def _judge_all(arena: Arena) -> Callable[[Path], str]:
    """Everything is the undisturbed run's, and no temporary file of ours is left.

    Nor looked for in what was moved aside: a run never enters that again, and the kill that the
    round begins with may have come in the middle of a file.
    """
    def judge(root: Path) -> str:
        wanted, found = arena.reference.result, result(root)
        names = sorted(wanted.keys() | found.keys())
        other = [f"{n} is another" for n in names if wanted.get(n) != found.get(n)]
        paths = (path.relative_to(root) for path in root.rglob(".*.tmp"))
        left = [f"{path} is left" for path in paths if not path.parts[0].endswith(".aside")]
        return "; ".join(other + left)

    return judge


def _stopped(
    arena: Arena, rng: random.Random, signals: tuple[int, ...]
) -> tuple[Job, str, Ended]:
    """The command, stopped by signals shortly after a random moment, from a random one before."""
    at = rng.randrange(len(MOMENTS) - 1)
    moment = rng.choice([None, *MOMENTS[max(0, at - 6) : at]])
    job = arena.begin(moment)
    process = job.start()
    wait_for(process, job.root / MOMENTS[at])
    delay = rng.uniform(0, 0.5)
    text = f"begun at {moment}, stopped {delay:.2f} s after {MOMENTS[at]}"
    for number in signals:
        time.sleep(delay)
        process.send_signal(number)
        delay = rng.uniform(0, 0.3)
    return job, text, ended(process, SOON)


def kill(arena: Arena, rng: random.Random) -> Fault:
    """SIGKILL."""
    job, text, _ = _stopped(arena, rng, (signal.SIGKILL,))
    return Fault(text, job.root, _judge_all(arena))


def terminate(arena: Arena, rng: random.Random) -> Fault:
    """SIGTERM: the run ends soon, by itself, in one line."""
    job, text, end = _stopped(arena, rng, (signal.SIGTERM,))
    proper = (end.code == 0 and not end.errors) or (
        end.code == 143 and len(end.errors) == 1 and "stopped by SIGTERM" in end.errors[0]
    )
    return Fault(text, job.root, _judge_all(arena), failure="" if proper else str(end))


def terminate_twice(arena: Arena, rng: random.Random) -> Fault:
    """SIGTERM, and SIGTERM or SIGKILL while the checkpoint is saved."""
    second = rng.choice([signal.SIGTERM, signal.SIGKILL])
    job, text, end = _stopped(arena, rng, (signal.SIGTERM, second))
    failure = str(end) if end.code == HANGING else ""
    return Fault(f"{text}, then {second.name}", job.root, _judge_all(arena), failure=failure)


def flip(arena: Arena, rng: random.Random) -> Fault:
    """One bit of a file."""
    def damage(path: Path) -> str:
        content = bytearray(path.read_bytes())
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        return f"bit {bit} of byte {place}"

    return _damage(arena, rng, damage)


def truncate(arena: Arena, rng: random.Random) -> Fault:
    """A file ends early."""
    def damage(path: Path) -> str:
        length = rng.randrange(path.stat().st_size)
        path.write_bytes(path.read_bytes()[:length])
        return f"cut to {length} bytes"

    return _damage(arena, rng, damage)


def delete(arena: Arena, rng: random.Random) -> Fault:
    """A file is gone."""
    def damage(path: Path) -> str:
        path.unlink()
        return "deleted"

    return _damage(arena, rng, damage)


def _damage(arena: Arena, rng: random.Random, damage: Callable[[Path], str]) -> Fault:
    moment = rng.choice(MOMENTS)
    job = arena.begin(moment)
    paths = sorted(p for p in job.root.rglob("*") if p.is_file() and p.stat().st_size)
    if rng.random() < 0.9:  # otherwise most of the files are such that nobody reads any more
        paths = [path for path in paths if _is_read(path)]
    path = rng.choice(paths)
    text = f"at {moment}, {path.relative_to(job.root)} {damage(path)}"
    return Fault(text, job.root, _judge_all(arena), path)


def _is_read(path: Path) -> bool:
    checkpoints = next((p for p in path.parents if p.name == "checkpoints"), None)
    if checkpoints is None:
        return "events" not in path.parts and path.suffix not in (".png", ".md")
    return not (checkpoints.parent / "model").exists()


def go_back(arena: Arena, rng: random.Random) -> Fault:
    """The latest checkpoint is damaged, and going back from it is killed on its way."""
    training = rng.choice(("tokenizer", "teacher", "distill"))
    job, flag = arena.begin(f"{training}/checkpoints/12"), "--config.restore=previous"
    checkpoint = job.root / training / "checkpoints" / "12"
    path = rng.choice(sorted(checkpoint.glob("arrays/ocdbt.process_0/d/*")))
    path.write_bytes(path.read_bytes()[:-1])
    process = job.start(flag)
    wait_for(process, checkpoint.parent.with_name("checkpoints_aside"))
    wait_for(process, checkpoint)
    time.sleep(delay := rng.uniform(0, 0.3))
    process.kill()
    ended(process)

    def judge(root: Path) -> str:
        aside = list((root / training / "checkpoints_aside").iterdir())
        again = "" if len(aside) == 1 else f"{len(aside)} checkpoints were set aside"
        return _judge_all(arena)(root) or again

    text = f"{path.relative_to(job.root)} cut, killed {delay:.2f} s after it was saved again"
    return Fault(text, job.root, judge, flags=(flag,))


def full_disk(arena: Arena, rng: random.Random) -> Fault:
    """The file system has no room left, and gets some."""
    moment = rng.choice(MOMENTS[:-4])
    state, disk = arena.reference.state(moment), arena.disk
    used = sum(path.stat().st_size // 4096 * 4 + 4 for path in state.rglob("*"))
    size = used + rng.randrange(8, 600)
    disk.mkdir(parents=True)
    if not _mount(disk, f"size={size}k"):
        raise Skipped("mounting a small file system needs root")
    root = disk / "run"
    shutil.copytree(state, root)
    end = Job(root).run()
    _mount(disk, "remount,size=100m")
    full = end.code == 1 and len(end.errors) == 1 and "error: the disk is full" in end.errors[0]
    failure = "" if full or (end.code == 0 and not end.errors) else str(end)
    text = f"at {moment}, {size - used} kB of room, exit code {end.code}"
    return Fault(text, root, _judge_all(arena), failure=failure)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def other_devices(arena: Arena, rng: random.Random) -> Fault:
    """One device, then several until a kill, then another number of them.

    A single stage, since what follows reads other weights then. Pairs must be the very same.
    """
    stage = rng.choice(("tokenizer", "teacher", "pairs", "distill"))
    moment = "pairs/pairs-00000.array_record" if stage == "pairs" else f"{stage}/checkpoints/4"
    several, last = rng.sample((2, 4, 1), 2)
    flags = (f"--config.stages={stage}", f"--config.mesh.fsdp={min(several, last, 2)}")
    job = arena.begin(moment)
    process = job.start(*flags, devices=several)
    until = "pairs/pairs-00001.array_record" if stage == "pairs" else f"{stage}/checkpoints/12"
    wait_for(process, job.root / until)
    process.kill()
    ended(process)

    def judge(root: Path) -> str:
        wanted = arena.reference.result
        different = [
            name for name, found in result(root).items()
            if wanted[name] != found and (stage == "pairs" or not name.startswith(f"{stage}/"))
        ]
        if stage in MODELS:
            here, there = (r / stage / "model" for r in (root, arena.reference.state("finished")))
            if largest_difference(here, there) > TOLERANCE:
                different.append(f"{stage}: weights differ by {largest_difference(here, there):g}")
        return "; ".join(different)

    text = f"{stage}: 1 device until {moment}, {several} until {until}, then {last}"
    return Fault(text, job.root, judge, flags=flags, devices=last)


KINDS: dict[str, Callable[[Arena, random.Random], Fault]] = {
    "SIGKILL": kill,
    "flip": flip,
    "SIGTERM": terminate,
    "truncate": truncate,
    "second signal": terminate_twice,
    "delete": delete,
    "full disk": full_disk,
    "device count": other_devices,
    "going back, killed": go_back,
}
