"""Benchmark report: ratios between rows, the device, the table."""

import os
import platform
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax

from ddjax.runtime import flops, sharding

TRAINING, READING = "training step", "reading a batch of pairs"
ENCODING = "encoding the captions of a step"
MEASURING = "features of evaluate.features"


def add_ratios(rows: list[dict[str, Any]], training_flops: Callable[[int], float]) -> None:
    """What follows from the times: shares, rates, utilisation."""
    rows = [row for row in rows if "seconds" in row]  # others did not fit into the memory
    seconds = {(row["name"], row["batch"]): row["seconds"] for row in rows}
    for row in rows:
        teacher = seconds.get(("teacher_ar", row["batch"]))
        if teacher and row["name"].startswith(("student", "refine")):
            row["speedup_over_teacher"] = teacher / row["seconds"]
        if row["name"] == "pairs":
            row["pairs_per_second"] = 1 / row["seconds_per_image"]
            mapping = seconds.get(("flow map of the pairs", row["batch"]))
            if mapping:
                row["flow_map_share"] = mapping / row["seconds"]
        if row["name"] == MEASURING:
            row["images_per_second"] = 1 / row["seconds_per_image"]
        if row["name"] == TRAINING:
            row["flops"] = training_flops(row["batch"])
            peak, row["peak_source"] = flops.peak()
            per_second = row["flops"] / row["seconds"] / sharding.devices()
            row["model_flop_utilisation"] = per_second / peak
        step = [other["seconds"] for other in rows if other["name"] == TRAINING]
        if row["name"] in (READING, ENCODING) and step:
            row["share_of_a_training_step"] = row["seconds"] / step[0]


def about() -> dict[str, Any]:
    """The device and the versions."""
    return {
        "device": device(),
        "devices": sharding.devices(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
    }


def device() -> str:
    """By its maker's name; of a CPU also how many cores it has."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    info = Path("/proc/cpuinfo")  # Linux alone has it
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def peak_memory_mb() -> float:
    """Of the accelerator, or of this process where the device does not tell (a CPU)."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['config']} on {result['devices']} x {result['device']}, jax {result['jax']}, "
        f"peak memory {result['peak_memory_mb']:.0f} MB",
        "",
        "| what | batch | ms / image | ms / call | first call, s | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join(lines + [_table_row(row) for row in result["rows"]])


def _table_row(row: dict[str, Any]) -> str:
    notes = {
        "speedup_over_teacher": "{speedup_over_teacher:.1f}x over the teacher",
        "pairs_per_second": "{pairs_per_second:.3g} pairs a second",
        "images_per_second": "{images_per_second:.3g} images a second",
        "flow_map_share": "{flow_map_share:.0%} of it in the flow map",
        "model_flop_utilisation": "{model_flop_utilisation:.0%} of peak ({peak_source})",
        "share_of_a_training_step": "{share_of_a_training_step:.2%} of a training step",
        "memory_mb": "{memory_mb:.0f} MB",
        "problem": "{problem}",
    }
    note = ", ".join(text.format(**row) for key, text in notes.items() if key in row)
    if "seconds" not in row:
        return f"| {row['name']} | {row['batch']} | | | | {note} |"
    return (
        f"| {row['name']} | {row['batch']} | {1e3 * row['seconds_per_image']:.3g} | "
        f"{1e3 * row['seconds']:.4g} | {row['first_call_seconds']:.1f} | {note} |"
    )
