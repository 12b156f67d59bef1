"""Stage `sample`: draw the images that a user asks for."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ddjax.config.schema import Config
from ddjax.evaluation import pictures
from ddjax.method import ways
from ddjax.pipeline import Pipeline
from ddjax.runtime import hosts
from ddjax.stages import running
from ddjax.stages.registry import STAGES
from ddjax.storage import files, run_models

# Images in a row of the picture, and rows at most: the arrays hold all that is drawn.
COLUMNS, ROWS = 10, 20


def run(config: Config, directory: Path) -> str:
    """Draw the images asked for, on one device; returns one line about it."""
    way = ways.parse(config.sample.method)
    pipe = Pipeline.from_config(config, directory.parent.parent, config.evaluate.batch)
    conditions, numbers = pipe.conditions.asked(config.sample)
    noise = pipe.noise(len(numbers), config.seed)
    drawn, _ = pipe.draw(way, numbers, noise, seed=config.seed, conditions=conditions)
    if hosts.is_first():
        titles = [conditions.title(number) for number in numbers]
        _write(config, directory, drawn.images, drawn.ids, numbers, titles)
    return f"{len(numbers)} images by {way.name}: {directory / 'images.png'}{conditions.remark()}"


def _write(
    config: Config,
    directory: Path,
    images: np.ndarray,
    ids: np.ndarray,
    numbers: np.ndarray,
    titles: list[str],
) -> None:
    with files.atomic(directory / "images.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, images=images, ids=ids, labels=numbers)
    shown = min(len(images), COLUMNS * ROWS)
    starts = range(0, shown, COLUMNS)
    all_of_them = "" if shown == len(images) else f", the first {shown} of {len(images)}"
    pictures.labelled_grid(
        directory / "images.png",
        {
            f"{i} to {min(i + COLUMNS, shown) - 1}" if len(starts) > 1 else "":
            images[i : min(i + COLUMNS, shown)] for i in starts
        },
        [titles[i : min(i + COLUMNS, shown)] for i in starts],
        f"{config.sample.method}, seed {config.seed}{all_of_them}",
    )


def folder_name(config: Config) -> str:
    """The same images always go to the same place."""
    conditions, numbers = run_models.conditions(config).asked(config.sample)
    shown = "-".join(map(str, numbers[:6])) + (
        f"-and-{len(numbers) - 6}" if len(numbers) > 6 else ""
    )
    settings = json.dumps(running.settings(config, STAGES["sample"]), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    return f"{config.sample.method}-seed{config.seed}-{conditions.key}{shown}-{digest}"
