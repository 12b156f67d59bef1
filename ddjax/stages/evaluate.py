"""Stage `evaluate`: a row of figures for each way of sampling, pictures, a report."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.config.schema import NO_DATA, SHAPES, Config
from ddjax.data import datasets, shapes
from ddjax.evaluation import pictures, report
from ddjax.evaluation.metrics import Samples, measured
from ddjax.evaluation.pixels import to_unit
from ddjax.evaluation.reference import MOST_NEIGHBOURS_AMONG, Reference
from ddjax.method import keys, ways
from ddjax.method.protocols import FeatureNet
from ddjax.method.sampling import Models, check_finite, draw_images
from ddjax.method.ways import Way
from ddjax.runtime import hosts, progress, sharding
from ddjax.stages import caption_features, feature_net, running, tokenizer
from ddjax.storage import run_models
from ddjax.training import events

TEACHER = ways.TeacherAR()


class Drawn(NamedTuple):
    """A set of images: features [N, F], classes the net sees [N], ids [N, L], the first images; of
    pictures of shapes also what is right in them, [N, A].
    """

    features: np.ndarray
    classes: np.ndarray | None
    ids: np.ndarray
    images: np.ndarray
    seconds_per_image: float
    right: np.ndarray | None = None


class Evaluator:
    """Draws sets of images and measures their features; all ways share conditions and noise.

    Args:
      config: of the run.
      root: the workdir.
      net: whose features are compared.
      methods: that will be drawn.
    """

    def __init__(self, config: Config, root: Path, net: FeatureNet, methods: list[Way]) -> None:
        self.config, self.net = config, net
        self.conditions = caption_features.conditions(config)
        reads = {part for way in (TEACHER, *methods) for part in way.reads}
        self.models = Models(**{
            part: run_models.part(config, root, self.conditions, part)
            for part in ("tokenizer", *sorted(reads))
        })
        self.numbers = self.conditions.number(np.arange(config.evaluate.samples))
        self.classifies = net.num_classes > 0
        self.batch = config.evaluate.batch * sharding.devices()
        self._measure = jax.jit(sharding.per_device(self._features_and_classes, replicated=1))

    @property
    def labels(self) -> np.ndarray | None:
        """The classes [N] that are asked for; None without classes."""
        return self.numbers if self.classifies and self.conditions.key == "labels" else None

    def _features_and_classes(self, net: FeatureNet, images: jax.Array) -> tuple:
        classes = net(images).argmax(-1) if self.classifies else None
        return net.features(images), classes

    def _over(self, function: Callable[[jax.Array], Any], images: np.ndarray) -> Any:
        """What a function makes of images [N, ...], batch by batch; arrays [N, ...] on the host."""
        parts = []
        for start in range(0, len(images), self.batch):
            # The last rows once more where a batch is not full.
            index = np.minimum(np.arange(start, start + self.batch), len(images) - 1)
            rows = images[index[sharding.local_rows(self.batch)]]
            made = function(sharding.shard_batch(rows, self.batch))
            parts.append(jax.tree.map(sharding.to_host, made))
        return jax.tree.map(lambda *part: np.concatenate(part)[: len(images)], *parts)

    def features_of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [N, F] of images, and classes [N], None where the net does not classify."""
        return self._over(functools.partial(self._measure, self.net), images)

    def reconstructions(self, images: np.ndarray) -> np.ndarray:
        """Images [N, H, W, channels] through the tokenizer's ids and back."""
        rebuild = jax.jit(sharding.per_device(tokenizer.reconstruct, replicated=1))
        return self._over(functools.partial(rebuild, self.models.tokenizer), images)

    def draw(self, way: Way, turn: str) -> Drawn:
        """A set of samples; `turn` names its noise and what is drawn beside it."""
        total = self.config.evaluate.samples
        noise_key, draw_key = (
            keys.stream(self.config.seed, f"evaluate.{turn}.{what}") for what in ("noise", "draw")
        )
        parts, shown, times, right = [], None, [], []
        for start in range(0, total, self.batch):
            batch = jax.block_until_ready(self._batch(noise_key, start))
            begin = time.perf_counter()
            drawn = jax.block_until_ready(draw_images(
                self.models, draw_key, *batch, way=way, settings=self.config.sampling
            ))
            times.append((time.perf_counter() - begin) / self.batch)
            features, classes = self._measure(self.net, drawn.images)
            parts.append(jax.tree.map(sharding.to_host, (features, classes, drawn.ids)))
            check_finite(way.name, parts[-1][0], start)
            if self.config.data.name == SHAPES:
                number = self.conditions.number(np.arange(start, start + self.batch))
                right.append(self.right(sharding.to_host(drawn.images), number))
            if shown is None:
                shown = sharding.to_host(drawn.images)
        whole = jax.tree.map(lambda *part: np.concatenate(part)[:total], *parts)
        checked = np.concatenate(right)[:total] if right else None
        seconds = float(np.median(times[1:] or times))  # the first compiles
        return Drawn(*whole, shown, seconds, checked)

    def right(self, images: np.ndarray, number_N: np.ndarray) -> np.ndarray | None:
        """What pictures [N, H, W, 3] of shapes show rightly, bool [N, A]; None of other images."""
        if self.config.data.name != SHAPES:
            return None
        return shapes.checked(to_unit(images), number_N)

    def _batch(self, noise_key: jax.Array, start: int) -> tuple:
        """What `draw_images` takes behind models and key: noise, condition, bucket, ..."""
        rows = (start + sharding.local_rows(self.batch)).astype(np.int32)
        number = self.conditions.number(rows)
        index, condition, bucket, prefix = sharding.shard_batch(
            (rows, self.conditions.take(number), self.conditions.bucket(number),
             np.zeros((len(rows), 0), np.int32)),
            self.batch,
        )
        code_dim = self.models.tokenizer.codebook.shape[1]
        noise = _noise(noise_key, index, self.config.groups.length, code_dim)
        return noise, self.conditions.encode(condition), bucket, index, prefix


_noise = jax.jit(keys.noise, static_argnums=(2, 3))


def run(config: Config, directory: Path) -> str:
    """Measure, write report.md, metrics.json, samples.png and tradeoff.png into the workdir."""
    begin = time.perf_counter()
    root, section = directory.parent, config.evaluate
    net = feature_net.load(
        "classifier", "evaluate.features", directory / "classifier", section.features, config
    )
    methods = [ways.parse(name) for name in section.methods]
    evaluator = Evaluator(config, root, net, methods)
    drawn, other_teacher = _draw_all(evaluator, methods)
    data = datasets.load(config.data) if config.data.name != NO_DATA else None
    data_features, data_classes = None, None
    if data is not None:
        data_features, data_classes = evaluator.features_of(data["image"])
    reference = Reference.of(
        other_teacher.features, data_features, section.neighbours, config.seed
    )
    rows = [] if data is None else _data_rows(evaluator, reference, data, data_classes)
    rows += _rows(drawn, evaluator, reference)
    made_by = f"of {section.features.weights}" if section.features.weights else (
        f"trained on {config.data.name}"
    )
    metrics = {
        "features": f"last layer ({other_teacher.features.shape[1]} wide) of a "
        f"{section.features.kind} {made_by}; not Inception, so the distances are not FID",
        "samples": section.samples,
        "sets": section.sets,
        "devices": sharding.devices(),
        "seconds_total": round(
            running.seconds_before(root, "evaluate") + time.perf_counter() - begin, 1
        ),
        "rows": rows,
    }
    if hosts.is_first():
        report.write(root, config, metrics)
        _write_pictures(root, evaluator, drawn, rows)
        _write_events(directory / "events", drawn)
    return f"{section.sets} x {section.samples} samples for each of {len(methods)} methods: " \
        f"{root / 'report.md'}"


def _draw_all(
    evaluator: Evaluator, methods: list[Way]
) -> tuple[dict[Way, list[Drawn]], Drawn]:
    """The sets of each way, and a further set of the teacher's."""
    sets = range(evaluator.config.evaluate.sets)
    todo = [(TEACHER, "reference"), *((way, f"set {i}") for way in methods for i in sets)]
    made = [evaluator.draw(*one) for one in progress.bar(todo, "evaluate", len(todo))]
    drawn = {way: made[1 + len(sets) * i :][: len(sets)] for i, way in enumerate(methods)}
    return drawn, made[0]


def _rows(
    drawn: dict[Way, list[Drawn]], evaluator: Evaluator, reference: Reference
) -> list[dict[str, Any]]:
    teacher, exact = drawn.get(TEACHER), drawn.get(ways.TeacherFlow())
    rows = []
    for way, sets in drawn.items():
        samples = [
            Samples(
                one.features, one.classes, evaluator.labels, one.ids,
                exact[i].ids if exact else None,
                way.passes(evaluator.config.groups),
                one.seconds_per_image if way.runs_a_network else None,
                teacher[i].seconds_per_image if teacher else None,
                one.right, shapes.is_held_out(evaluator.numbers),
            )
            for i, one in enumerate(sets)
        ]
        rows.append(measured(way.name, samples, reference))
    return rows


def _data_rows(
    evaluator: Evaluator,
    reference: Reference,
    data: dict[str, np.ndarray],
    classes: np.ndarray | None,
) -> list[dict[str, Any]]:
    """One half of the data against the other, and the data through the tokenizer."""
    labels = data["label"] if evaluator.labels is not None else None
    order = np.random.default_rng(evaluator.config.seed).permutation(len(data["label"]))
    half, other = np.array_split(reference.data_NF[order], 2)
    of_halves = Reference(half, other, other[:MOST_NEIGHBOURS_AMONG], reference.neighbours)
    floor = measured("data_floor", [Samples(half)], of_halves)
    accuracy = measured("", [Samples(reference.data_NF, classes, labels)], reference)
    floor |= {"fd_teacher": None, "class_accuracy": accuracy["class_accuracy"]}
    rebuilt = evaluator.reconstructions(data["image"])
    features, seen = evaluator.features_of(rebuilt)
    numbers = data.get("condition", data["label"])
    samples = Samples(
        features, seen, labels, right_NA=evaluator.right(rebuilt, numbers),
        held_out_N=shapes.is_held_out(numbers),
    )
    return [floor, measured("reconstruction", [samples], reference)]


def _write_pictures(
    root: Path, evaluator: Evaluator, drawn: dict[Way, list[Drawn]], rows: list[dict[str, Any]]
) -> None:
    config, conditions = evaluator.config, evaluator.conditions
    count = min(2 * conditions.count, 20, config.evaluate.batch, config.evaluate.samples)
    # Two of each class side by side.
    order = sorted(range(count), key=lambda i: (evaluator.numbers[i], i))
    # These share their noise, so that columns can be compared; onestep* shows what has none.
    chosen = [way for way in drawn if way.maps_noise or not way.runs_a_network] or list(drawn)
    shown = {way.name: drawn[way][0].images[order] for way in chosen}
    titles = [conditions.title(evaluator.numbers[i]) for i in order]
    pictures.labelled_grid(
        root / "samples.png", shown, [titles],
        f"{config.name}: each column one noise draw (onestep* has none)",
    )
    points = {
        row["method"]: (row["seconds_per_image"], row["fd_teacher"])
        for row in rows if row["seconds_per_image"] is not None
    }
    compared = {"teacher_ar": "teacher_ar, the floor", "onestep_class": "onestep_class",
                "onestep_all": "onestep_all"}
    lines = {
        compared[row["method"]]: row["fd_teacher"] for row in rows if row["method"] in compared
    }
    pictures.tradeoff(
        root / "tradeoff.png", points, lines, "Fréchet distance to the teacher's samples"
    )


def _write_events(directory: Path, drawn: dict[Way, list[Drawn]]) -> None:
    writer = events.writer(directory)
    for way, sets in drawn.items():
        writer.write_images(0, {way.name: pictures.tile(sets[0].images[:40], 10)[None]})
    writer.close()
