"""A fault campaign: a tiny job is killed, damaged, starved and moved, and must end the same.

    python -m tests.campaign --rounds=50

Each round takes what a kill would have left at a random moment, inflicts one fault, and runs the
same command again, then with what its message advises. It must end with the very result of the
undisturbed run, or refuse with a file named and nothing lost. `--seed` makes a campaign repeatable
(but for the milliseconds by which processes differ); `--only` repeats one round of it.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaign_faults import KINDS, Arena, Fault, Skipped
from tests.campaign_runs import Ended, Job, digests, lost, make_reference

SAME, MENDED, REFUSED, SKIPPED = "same", "refused, then same", "refused", "skipped"
BAD = WRONG, SILENT, CRASH = "wrong result", "silent acceptance", "crash"
OUTCOMES = (SAME, MENDED, REFUSED, SKIPPED, *BAD)

# Refusals in a row: more advice than this leads nowhere.
PATIENCE = 4


class Round(NamedTuple):
    """What was done in a round, and what came of it."""

    number: int
    kind: str
    fault: str
    outcome: str
    detail: str

    def __str__(self) -> str:
        why = f": {self.detail}" if self.detail else ""
        return f"{self.number} {self.kind}: {self.fault} -> {self.outcome}{why}"


def play(number: int, seed: int, arena: Arena) -> Round:
    """One round; what it does depends on the seed and its number alone."""
    rng = random.Random(f"{seed} {number}")
    kind, inflict = list(KINDS.items())[(number - 1) % len(KINDS)]
    try:
        fault = inflict(arena, rng)
    except Skipped as reason:
        return Round(number, kind, "", SKIPPED, str(reason))
    outcome, detail = (CRASH, fault.failure) if fault.failure else settle(fault)
    return Round(number, kind, fault.text, outcome, detail)


def settle(fault: Fault) -> tuple[str, str]:
    """Run the command again, with what it advises, until it ends well or advises no more."""
    job, flags, told = Job(fault.root), fault.flags, []
    while flags is not None and len(told) < PATIENCE:
        before = digests(fault.root)
        end = job.run(*flags, devices=fault.devices)
        if end.code == 0:
            return _judge(end, fault, told)
        gone = lost(before, digests(fault.root))
        problem = improper(end, fault) or (gone and f"lost {', '.join(gone)}")
        if problem:
            return CRASH, f"{problem}; {end}"
        told.append(end.errors[0])
        flags = _follow(end.errors[0], job, fault.flags)
    if flags is not None:
        return CRASH, f"advice that leads nowhere: {'; '.join(told)}"
    return REFUSED, "; ".join(told)


def _judge(end: Ended, fault: Fault, told: list[str]) -> tuple[str, str]:
    problem = fault.judge(fault.root)
    if problem:
        return (SILENT if fault.damaged else WRONG), problem
    if end.errors:
        return CRASH, str(end)
    return (MENDED if told else SAME), "; ".join(told)


def improper(end: Ended, fault: Fault) -> str:
    """What a refusal lacks, or "": it is one line that names the damaged file or its folder."""
    if end.code != 1 or len(end.errors) != 1 or not end.errors[0].startswith("error: "):
        return "not one line"
    if fault.damaged is None:
        return "refused without damage"
    paths = re.findall(rf"{re.escape(str(fault.root))}/[^\s,;:()']+", end.errors[0])
    named = {Path(path.rstrip(".")) for path in paths}
    near = {fault.damaged, *fault.damaged.parents}
    beside = fault.damaged.parent in {path.parent for path in named}
    return "" if named & near or beside else "the damaged file is not named"


def _follow(line: str, job: Job, flags: tuple[str, ...]) -> tuple[str, ...] | None:
    """Do what a message advises; the flags of the next run, or None if it advises nothing."""
    if "--config.restore=previous" in line:
        return (*flags, "--config.restore=previous")
    if "python -m ddjax.pairs repair" in line:
        return flags if job.repair().code == 0 else None
    move = re.search(r"move (\S+?)(?:, and what is left of (\S+),)? aside", line)
    for path in map(Path, filter(None, move.groups() if move else ())):
        if path.exists():
            path.rename(f"{path}.aside")
    return flags if move else None


def summary(rounds: list[Round], seed: int, seconds: float) -> dict[str, Any]:
    """The report, for programs."""
    faults = {kind: dict.fromkeys(OUTCOMES, 0) for kind in KINDS}
    for found in rounds:
        faults[found.kind][found.outcome] += 1
    totals = collections.Counter(found.outcome for found in rounds)
    return {
        "seed": seed,
        "rounds": len(rounds),
        "minutes": round(seconds / 60, 1),
        "faults": faults,
        "wrong results": totals[WRONG],
        "silent acceptances": totals[SILENT],
        "crashes": totals[CRASH],
        "skipped": sorted({found.detail for found in rounds if found.outcome == SKIPPED}),
        "found": [str(found) for found in rounds if found.outcome in BAD],
    }


def report(content: dict[str, Any]) -> str:
    """A summary as Markdown, and how to repeat what is bad."""
    rows = [["fault", *OUTCOMES], ["---", *["---:"] * len(OUTCOMES)]]
    rows += [[kind, *map(str, counts.values())] for kind, counts in content["faults"].items()]
    lines = [*(f"| {' | '.join(row)} |" for row in rows), ""]
    figures = ("seed", "rounds", "minutes", "wrong results", "silent acceptances", "crashes")
    lines += [f"{name}: {content[name]}" for name in figures]
    lines += [f"skipped: {why}" for why in content["skipped"]]
    lines += [f"--seed={content['seed']} --only={found}" for found in content["found"]]
    return "\n".join(lines)


def campaign(numbers: Iterable[int], seed: int) -> list[Round]:
    """Play these rounds; the folders of bad ones stay."""
    folder = Path(tempfile.mkdtemp(prefix="ddjax-campaign-"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    # Most of a tiny run is compiling, and all rounds share the cache.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    begin, rounds = time.monotonic(), []
    reference = make_reference(folder / "reference")
    print(f"undisturbed run: {time.monotonic() - begin:.0f} s, in {folder}", flush=True)
    for number in numbers:
        begin, bad = time.monotonic(), True
        arena = Arena(reference, folder / f"round-{number}")
        try:
            rounds.append(play(number, seed, arena))
            bad = rounds[-1].outcome in BAD
        finally:
            arena.end(keep=bad)
        print(f"{rounds[-1]} ({time.monotonic() - begin:.0f} s)", flush=True)
    if not any(found.outcome in BAD for found in rounds):
        shutil.rmtree(folder)
    return rounds


def main() -> None:
    """Parse the flags, play, report; exit code 1 if anything bad was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one round to repeat")
    parser.add_argument("--output", type=Path, help="a JSON file for the report")
    flags = parser.parse_args()
    begin = time.monotonic()
    rounds = campaign([flags.only] if flags.only else range(1, flags.rounds + 1), flags.seed)
    content = summary(rounds, flags.seed, time.monotonic() - begin)
    print(f"\n{report(content)}")
    if flags.output:
        flags.output.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if content["found"] else 0)


if __name__ == "__main__":
    main()
