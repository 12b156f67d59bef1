"""Pictures of the report: what each shows, from the sets of the stage evaluate."""

from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.sources import some_of
from ddjax.evaluation import pictures, pixels, plots
from ddjax.evaluation.metrics import TOKENS_EQUAL
from ddjax.evaluation.nearest import nearest
from ddjax.evaluation.pictures import Picture
from ddjax.method import ways
from ddjax.method.ways import Way
from ddjax.runtime import hosts
from ddjax.stages.data_sets import DataSets
from ddjax.stages.sample_sets import EXACT, TEACHER, SampleSets
from ddjax.training import events, validation

# Columns of samples.png: more of them are too small to see.
COLUMNS = 10

# Of which method the nearest training images are shown, of how many samples, and the held-out
# images whose distances these are compared with.
MEMORISING, SHOWN, HELD_OUT = ways.StudentSteps(1), 10, 100


def write(
    directory: Path, samples: SampleSets, data: DataSets | None, rows: list[dict[str, Any]]
) -> list[Picture]:
    """Write the pictures into the workdir, and samples as TensorBoard events.

    Args:
      directory: of the stage evaluate.
      samples: all sets, made.
      data: of the run, if there are any.
      rows: of the report.
    """
    root, written = directory.parent, []
    # All processes measure; the first draws.
    found = _nearest(samples, data) if data and MEMORISING in samples.methods else None
    if not hosts.is_first():
        return written
    written += [_samples(root, samples), _tradeoff(root, rows)]
    if EXACT in samples.methods:
        written += _by_position(root, samples)
    if found:
        written.append(_memorised(root, samples, *found))
    if not samples.config.student.weights:
        written += _validation(root, samples.config.name)
    _to_tensorboard(directory, samples)
    return written


def _shown(samples: SampleSets, way: Way) -> np.ndarray:
    """The first images [n, H, W, C] of a way, in [-1, 1]."""
    return np.asarray(pixels.of_levels(samples.folder(way, 0).rows("shown")))


def _samples(root: Path, samples: SampleSets) -> Picture:
    config, conditions = samples.config, samples.conditions
    count = min(2 * conditions.count, COLUMNS, config.evaluate.batch, config.evaluate.samples)
    # Two of each class side by side, where there are few.
    order = sorted(range(count), key=lambda i: (samples.numbers[i], i))
    # These share their noise, so that columns can be compared; onestep* shows what has none.
    chosen = [way for way in samples.methods if way.maps_noise or not way.runs_a_network]
    titles = [conditions.title(samples.numbers[i]) for i in order]
    pictures.labelled_grid(
        root / "samples.png",
        {way.name: _shown(samples, way)[order] for way in chosen or samples.methods}, [titles],
        f"{config.name}: each column one noise draw (onestep* has none)",
    )
    return Picture("samples.png", "samples")


def _tradeoff(root: Path, rows: list[dict[str, Any]]) -> Picture:
    points = {
        row["method"]: (row["seconds_per_image"], row["fd_teacher"])
        for row in rows if row["seconds_per_image"] is not None
    }
    compared = {"teacher_ar": "teacher_ar, the floor", "onestep_class": "onestep_class",
                "onestep_all": "onestep_all"}
    lines = {
        compared[row["method"]]: row["fd_teacher"] for row in rows if row["method"] in compared
    }
    plots.tradeoff(
        root / "tradeoff.png", points, lines, "Fréchet distance to the teacher's samples"
    )
    return Picture("tradeoff.png", "quality against time")


def _by_position(root: Path, samples: SampleSets) -> list[Picture]:
    """Of the ways that approximate the teacher's map, where there are any."""
    lines = {way.name: _equal(samples, way) for way in samples.methods
             if way.maps_noise and way != EXACT}
    if not lines:
        return []
    groups = samples.config.groups
    plots.by_position(
        root / "tokens_equal.png", lines,
        _equal(samples, TEACHER) if TEACHER in samples.methods else None,
        groups.starts if groups.count < groups.length else (),
    )
    return [Picture("tokens_equal.png", "tokens equal by position")]


def _equal(samples: SampleSets, way: Way) -> np.ndarray:
    """The share [L] of tokens that are the teacher's map's, over all sets."""
    sets = [samples.folder(way, i).read() for i in range(samples.config.evaluate.sets)]
    return np.mean([one.statistics.means[TOKENS_EQUAL.key].value for one in sets], axis=0)


def _nearest(samples: SampleSets, data: DataSets) -> tuple[np.ndarray, np.ndarray, float | None]:
    """The nearest training images of the first samples [n, H, W, C], their distances [n], and the
    median distance of held-out images to theirs.
    """
    measure, seen = samples.measure, data.images.seen
    drawn_NF = samples.folder(MEMORISING, 0).rows("features")[:SHOWN]
    unseen = some_of(data.images.unseen, HELD_OUT)
    unseen_NF = [*measure.features(unseen, "held-out images")]
    found = nearest(
        np.concatenate([drawn_NF, *unseen_NF]), measure.features(seen, "nearest training images")
    )
    count = len(drawn_NF)
    others = found.distance_N[count:]
    images = seen.take(found.number_N[:count])["image"]
    return images, found.distance_N[:count], float(np.median(others)) if len(others) else None


def _memorised(
    root: Path, samples: SampleSets, images: np.ndarray, distances: np.ndarray,
    usual: float | None,
) -> Picture:
    titles = [samples.conditions.title(number) for number in samples.numbers[: len(images)]]
    pictures.labelled_grid(
        root / "nearest.png",
        {MEMORISING.name: _shown(samples, MEMORISING)[: len(images)],
         "nearest\ntraining image": images},
        [titles, [f"{distance:.3g}" for distance in distances]],
        f"{samples.config.name}: distances of features over the nearest training images",
    )
    about = f"nearest.png: the first samples of {MEMORISING.name}, each over the training image " \
        "that is nearest in the features above; a distance near 0 would be an image learnt by " \
        f"heart. Here they are {distances.min():.3g} to {distances.max():.3g}"
    if usual is not None:
        about += f"; held-out images are {usual:.3g} away from their nearest (median)"
    return Picture("nearest.png", "nearest training images", f"{about}.")


def _validation(root: Path, name: str) -> list[Picture]:
    """Of the training of the student, where it was validated."""
    found = validation.read(root / "distill")
    if found is None or not found["rows"]:
        return []
    plots.validation(
        root / "validation.png", found["rows"], found["kept"],
        f"{name}: one-step samples of held-out noise, {found['about']['samples']} each",
    )
    return [Picture("validation.png", "validation during distillation")]


def _to_tensorboard(directory: Path, samples: SampleSets) -> None:
    writer = events.writer(directory / "events")
    for way in samples.methods:
        writer.write_images(0, {way.name: pictures.tile(_shown(samples, way), 10)[None]})
    writer.close()
