"""The stage `evaluate`: one row of figures for each way of sampling, pictures, a report."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax import (
    classify,
    data,
    hosts,
    keys,
    monitor,
    pictures,
    progress,
    report,
    sample,
    sharding,
    tokenizer,
)
from ddjax.config import NO_DATA, Config
from ddjax.methods import Method
from ddjax.metrics.frechet import frechet_distance
from ddjax.metrics.precision_recall import precision_recall
from ddjax.workdir import Stage, seconds_before


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a method made: features [N, F], ids [N, L], classes seen [N], the first images."""

    features: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    seconds_per_image: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; None where a figure has no meaning."""

    method: str
    fd_data: float | None = None
    fd_teacher: float | None = None
    class_accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    tokens_equal: float | None = None
    passes: int | None = None
    seconds_per_image: float | None = None
    speedup: float | None = None


class Evaluator:
    """Draws and measures; all methods see the same labels and the same held-out noise."""

    def __init__(self, config: Config, root: Path, net: nnx.Module) -> None:
        self.config, self.net = config, net
        methods = [Method.parse(name) for name in config.evaluate.methods]
        self.parts = sample.load_parts(config, root, [Method("teacher_ar"), *methods])
        self.settings = sample.Settings.of(config)
        self.labels = np.arange(config.evaluate.samples) % config.data.num_classes
        self.classifies = hasattr(config.evaluate.features.model, "num_classes")
        self.batch = config.evaluate.batch * sharding.devices()
        self._look = jax.jit(sharding.each_device(self._features_and_classes, whole=1))
        self._noise = jax.jit(self._noise_and_labels)

    def _noise_and_labels(self, key: jax.Array, index_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        length, code_dim = self.config.groups.length, self.parts.tokenizer.codebook.shape[1]
        labels = index_B % self.config.data.num_classes
        return keys.noise(key, index_B, length, code_dim), labels

    def _features_and_classes(self, net: nnx.Module, images: jax.Array) -> tuple:
        classes = net(images).argmax(-1) if self.classifies else jnp.full(len(images), -1)
        return net.features(images), classes

    def _over(self, function: Callable[[jax.Array], Any], images: np.ndarray) -> Any:
        """What a function makes of images [N, ...], batch by batch; arrays [N, ...] on the host."""
        parts = []
        for start in range(0, len(images), self.batch):
            # The last rows once more where a batch is not full.
            index = np.minimum(np.arange(start, start + self.batch), len(images) - 1)
            rows = images[index[sharding.local_rows(self.batch)]]
            made = function(sharding.rows(rows, self.batch))
            parts.append(jax.tree.map(sharding.host, made))
        return jax.tree.map(lambda *part: np.concatenate(part)[: len(images)], *parts)

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, F] and classes [N] of images; -1 where the net does not classify."""
        return self._over(functools.partial(self._look, self.net), images)

    def rebuilt(self, images: np.ndarray) -> np.ndarray:
        """Images through the tokenizer's ids and back."""
        rebuild = jax.jit(sharding.each_device(tokenizer.reconstruct, whole=1))
        return self._over(functools.partial(rebuild, self.parts.tokenizer), images)

    def accuracy(self, classes: np.ndarray, labels: np.ndarray) -> float | None:
        """Share of images seen as their class, or None."""
        return float(np.mean(classes == labels)) if self.classifies else None

    def draw(self, method: Method, turn: str) -> Drawn:
        """All samples of a method; `turn` names the noise, another turn is a resampling."""
        batch, total = self.batch, self.config.evaluate.samples
        noise_key, draw_key = (
            keys.stream(self.config.seed, f"evaluate.{turn}.{what}") for what in ("noise", "draw")
        )
        features, ids, classes, shown, times = [], [], [], [], []
        for start in range(0, total, batch):
            rows = (start + sharding.local_rows(batch)).astype(np.int32)
            index = sharding.rows(rows, batch)
            eps, labels = jax.block_until_ready(self._noise(noise_key, index))
            begin = time.perf_counter()
            images, tokens = jax.block_until_ready(
                sample.draw_images(
                    self.parts, eps, labels, index, draw_key, method=method,
                    settings=self.settings,
                )
            )
            times.append((time.perf_counter() - begin) / batch)
            seen, guess = self._look(self.net, images)
            for all_, part in ((features, seen), (ids, tokens), (classes, guess)):
                all_.append(sharding.host(part))
            sample.check_finite(method, features[-1], start)
            if not shown:
                shown.append(sharding.host(images))
        return Drawn(
            np.concatenate(features)[:total], np.concatenate(ids)[:total],
            np.concatenate(classes)[:total], shown[0],
            float(np.median(times[1:] or times)),  # the first compiles
        )


class Real:
    """The data as the net sees them; without data every figure about them is None."""

    def __init__(self, evaluator: Evaluator) -> None:
        config = evaluator.config
        self.there = config.data.name != NO_DATA
        if not self.there:
            return
        self.data = data.load(config.data)
        self.features, self.classes = evaluator.look(self.data["image"])
        self.order = np.random.default_rng(config.seed).permutation(len(self.features))
        # Precision and recall compare each with each: as many of the data as there are samples.
        self.some = self.features[self.order[: config.evaluate.samples]]
        self.neighbours = config.evaluate.neighbours

    def distance(self, features: np.ndarray) -> float | None:
        """Fréchet distance of features to the data's."""
        return frechet_distance(features, self.features) if self.there else None

    def precision_recall(self, features: np.ndarray) -> tuple[float | None, float | None]:
        """Of samples against the data."""
        if not self.there:
            return None, None
        return precision_recall(self.some, features[: len(self.some)], self.neighbours)


def run(config: Config, stage: Stage) -> str:
    """Measure, write report.md, metrics.json, samples.png and tradeoff.png into the workdir."""
    begin = time.perf_counter()
    root = stage.directory.parent
    section = config.evaluate.features
    net = classify.net(
        "classifier", "evaluate.features", stage.directory / "classifier", section, config
    )
    evaluator = Evaluator(config, root, net)
    real = Real(evaluator)
    methods = [Method.parse(name) for name in config.evaluate.methods]
    turns = config.evaluate.resamplings
    resampled = [m for m in (Method("teacher_ar"), Method("student", 1)) if m in methods]
    todo = 1 + len(methods) + turns * len(resampled)
    bar = iter(progress.bar(range(todo), "evaluate", todo))

    def draw(method: Method, turn: str) -> Drawn:
        next(bar)
        return evaluator.draw(method, turn)

    reference = draw(Method("teacher_ar"), "reference").features
    drawn = {method: draw(method, "samples") for method in methods}
    noise = {"resamplings": turns}
    for method in resampled:
        sets = [draw(method, f"resampling {turn}").features for turn in range(turns)]
        noise[method.name] = _spread(sets, real, reference)
    next(bar, None)
    rows = _data_rows(evaluator, real, reference) if real.there else []
    rows += _rows(drawn, evaluator, real, reference)
    made_by = f"of {section.weights}" if section.weights else f"trained on {config.data.name}"
    metrics = {
        "features": f"last layer ({reference.shape[1]} wide) of a {section.kind} {made_by}; not "
        "Inception, so the distances are not FID",
        "noise": noise,
        "samples": config.evaluate.samples,
        "devices": sharding.devices(),
        "seconds_total": round(
            seconds_before(root, stage.name) + time.perf_counter() - begin, 1
        ),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    if hosts.is_first():
        report.write(root, config, metrics)
        _write_pictures(root, config, drawn, rows)
        _write_events(stage.directory / "events", drawn)
    return f"{config.evaluate.samples} samples for each of {len(methods)} methods: " \
        f"{root / 'report.md'}"


def _rows(
    drawn: dict[Method, Drawn], evaluator: Evaluator, real: Real, reference: np.ndarray
) -> list[Row]:
    groups = evaluator.config.groups.count
    exact = drawn.get(Method("teacher_flow"))
    teacher = drawn.get(Method("teacher_ar"))
    rows = []
    for method, made in drawn.items():
        precision, recall = real.precision_recall(made.features)
        maps_noise = method.kind not in ("teacher_ar", "skip")
        timed = not method.kind.startswith("onestep")  # no network is run to draw those here
        rows.append(
            Row(
                method=method.name,
                fd_data=real.distance(made.features),
                fd_teacher=frechet_distance(made.features, reference),
                class_accuracy=evaluator.accuracy(made.classes, evaluator.labels),
                precision=precision,
                recall=recall,
                tokens_equal=float(np.mean(made.ids == exact.ids))
                if maps_noise and exact else None,
                passes=method.passes(groups),
                seconds_per_image=made.seconds_per_image if timed else None,
                speedup=teacher.seconds_per_image / made.seconds_per_image
                if timed and teacher else None,
            )
        )
    return rows


def _data_rows(evaluator: Evaluator, real: Real, reference: np.ndarray) -> list[Row]:
    """One half of the data against the other, and the data through the tokenizer."""
    half, other = np.array_split(real.features[real.order], 2)
    limit, neighbours = evaluator.config.evaluate.samples, real.neighbours
    precision, recall = precision_recall(half[:limit], other[:limit], neighbours)
    floor = Row(
        method="data_floor", fd_data=frechet_distance(half, other),
        class_accuracy=evaluator.accuracy(real.classes, real.data["label"]),
        precision=precision, recall=recall,
    )
    features, classes = evaluator.look(evaluator.rebuilt(real.data["image"]))
    precision, recall = real.precision_recall(features)
    rebuilt_row = Row(
        method="reconstruction", fd_data=real.distance(features),
        fd_teacher=frechet_distance(features, reference),
        class_accuracy=evaluator.accuracy(classes, real.data["label"]),
        precision=precision, recall=recall,
    )
    return [floor, rebuilt_row]


def _spread(
    sets: list[np.ndarray], real: Real, reference: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of the distances over fresh sets of samples; None for one."""
    turns = len(sets)
    distances = {"fd_teacher": [frechet_distance(features, reference) for features in sets]}
    if real.there:
        distances["fd_data"] = [real.distance(features) for features in sets]
    return {
        name: {"mean": float(np.mean(v)), "std": float(np.std(v, ddof=1)) if turns > 1 else None}
        for name, v in distances.items()
    }


def _write_pictures(
    root: Path, config: Config, drawn: dict[Method, Drawn], rows: list[Row]
) -> None:
    classes = config.data.num_classes
    count = min(2 * classes, 20, config.evaluate.batch)
    # Two of each class side by side.
    order = sorted(range(count), key=lambda i: (i % classes, i))
    # These share their noise, so that columns can be compared; onestep* shows what has none.
    kinds = ("teacher_flow", "student", "refine", "onestep_class", "onestep_all")
    chosen = [method for method in drawn if method.kind in kinds] or list(drawn)
    shown = {method.name: drawn[method].images[order] for method in chosen}
    pictures.labelled_grid(
        root / "samples.png", shown, [[str(i % classes) for i in order]],
        f"{config.name}: each column one noise draw (onestep* has none), captions are classes",
    )
    points = {
        row.method: (row.seconds_per_image, row.fd_teacher)
        for row in rows if row.seconds_per_image is not None
    }
    compared = {"teacher_ar": "teacher_ar, the floor", "onestep_class": "onestep_class",
                "onestep_all": "onestep_all"}
    lines = {compared[row.method]: row.fd_teacher for row in rows if row.method in compared}
    pictures.tradeoff(
        root / "tradeoff.png", points, lines, "Fréchet distance to the teacher's samples"
    )


def _write_events(directory: Path, drawn: dict[Method, Drawn]) -> None:
    events = monitor.writer(directory)
    for method, made in drawn.items():
        events.write_images(0, {method.name: pictures.tile(made.images[:40], 10)[None]})
    events.close()
