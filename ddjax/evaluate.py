"""The stage `evaluate`: one row of figures for each way of sampling, pictures, a report."""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax import classify, data, keys, monitor, pictures, progress, report, sample, tokenizer
from ddjax.config import Config
from ddjax.methods import Method
from ddjax.metrics.frechet import frechet_distance
from ddjax.metrics.precision_recall import precision_recall
from ddjax.workdir import Stage


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

    def __init__(self, config: Config, root: Path, classifier: nnx.Module) -> None:
        self.config, self.classifier = config, classifier
        methods = [Method.parse(name) for name in config.evaluate.methods]
        self.parts = sample.load_parts(root, methods)
        self.settings = sample.Settings.of(config)
        self.labels = np.arange(config.evaluate.samples) % config.data.num_classes
        self._look = jax.jit(lambda net, images: (net.features(images), net(images).argmax(-1)))

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, F] and classes [N] of images."""
        size = self.config.evaluate.batch
        parts = [
            self._look(self.classifier, images[i : i + size]) for i in range(0, len(images), size)
        ]
        features, classes = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(classes)

    def draw(self, method: Method, turn: str) -> Drawn:
        """All samples of a method; `turn` names the noise, another turn is a resampling."""
        batch, total = self.config.evaluate.batch, self.config.evaluate.samples
        key = keys.stream(self.config.seed, f"evaluate.{turn}")
        length = self.parts.teacher.groups.length
        code_dim = self.parts.tokenizer.codebook.shape[1]
        features, ids, classes, shown, times = [], [], [], [], []
        for start in range(0, total, batch):
            index = jnp.arange(start, start + batch, dtype=jnp.int32)
            eps = jax.block_until_ready(keys.noise(key, index, length, code_dim))
            labels = index % self.config.data.num_classes
            begin = time.perf_counter()
            images, tokens = jax.block_until_ready(
                sample.draw_images(
                    self.parts, eps, labels, jax.random.fold_in(key, start), method=method,
                    settings=self.settings,
                )
            )
            times.append((time.perf_counter() - begin) / batch)
            seen, guess = self._look(self.classifier, images)
            for all_, part in ((features, seen), (ids, tokens), (classes, guess)):
                all_.append(np.asarray(part))
            if not shown:
                shown.append(np.asarray(images))
        return Drawn(
            np.concatenate(features)[:total], np.concatenate(ids)[:total],
            np.concatenate(classes)[:total], shown[0],
            float(np.median(times[1:] or times)),  # the first compiles
        )


def run(config: Config, stage: Stage, seconds_before: float) -> str:
    """Measure, write report.md, metrics.json, samples.png and tradeoff.png into the workdir."""
    begin = time.perf_counter()
    root = stage.directory.parent
    images = data.load(config.data)
    classifier = classify.train_classifier(
        "classifier", stage.directory / "classifier", config.evaluate.classifier, images,
        config.seed,
    )
    evaluator = Evaluator(config, root, classifier)
    real, real_classes = evaluator.look(images["image"])
    # Precision and recall compare every real with every sample: as many of the one as of the other.
    order = np.random.default_rng(config.seed).permutation(len(real))
    some_real = real[order[: config.evaluate.samples]]
    methods = [Method.parse(name) for name in config.evaluate.methods]
    turns = config.evaluate.resamplings
    bar = iter(progress.bar(range(len(methods) + 2 * turns + 1), "evaluate",
                                len(methods) + 2 * turns + 1))

    def draw(method: Method, turn: str) -> Drawn:
        next(bar)
        return evaluator.draw(method, turn)

    reference = draw(Method("teacher_ar"), "reference").features
    drawn = {method: draw(method, "samples") for method in methods}
    rows = [
        _data_floor(config, real, real_classes, images["label"]),
        _reconstruction(config, evaluator, images, real, some_real, reference),
        *_rows(config, drawn, evaluator, real, some_real, reference),
    ]
    noise = {"resamplings": turns}
    for method in (Method("teacher_ar"), Method("student", 1)):
        sets = [draw(method, f"resampling {turn}").features for turn in range(turns)]
        noise[method.name] = _spread(sets, real, reference)
    next(bar, None)
    metrics = {
        "features": f"last hidden layer ({real.shape[1]} wide) of a small classifier trained on "
        f"{config.data.name}; not Inception, so the distances are not FID",
        "noise": noise,
        "samples": config.evaluate.samples,
        "seconds_total": round(seconds_before + time.perf_counter() - begin, 1),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    report.write(root, config, metrics)
    _write_pictures(root, config, drawn, rows)
    _write_events(stage.directory / "events", drawn)
    return f"{config.evaluate.samples} samples for each of {len(methods)} methods: " \
        f"{root / 'report.md'}"


def _rows(
    config: Config,
    drawn: dict[Method, Drawn],
    evaluator: Evaluator,
    real: np.ndarray,
    some_real: np.ndarray,
    reference: np.ndarray,
) -> list[Row]:
    groups = config.groups.count
    exact = drawn.get(Method("teacher_flow"))
    teacher = drawn.get(Method("teacher_ar"))
    rows = []
    for method, made in drawn.items():
        precision, recall = precision_recall(some_real, made.features, config.evaluate.neighbours)
        maps_noise = method.kind not in ("teacher_ar", "skip")
        timed = not method.kind.startswith("onestep")  # no network is run to draw those here
        rows.append(
            Row(
                method=method.name,
                fd_data=frechet_distance(made.features, real),
                fd_teacher=frechet_distance(made.features, reference),
                class_accuracy=float(np.mean(made.classes == evaluator.labels)),
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


def _data_floor(
    config: Config, real: np.ndarray, classes: np.ndarray, labels: np.ndarray
) -> Row:
    order = np.random.default_rng(config.seed).permutation(len(real))
    half, other = np.array_split(real[order], 2)
    limit = config.evaluate.samples
    precision, recall = precision_recall(half[:limit], other[:limit], config.evaluate.neighbours)
    return Row(
        method="data_floor", fd_data=frechet_distance(half, other),
        class_accuracy=float(np.mean(classes == labels)), precision=precision, recall=recall,
    )


def _reconstruction(
    config: Config, evaluator: Evaluator, images: data.Arrays, real: np.ndarray,
    some_real: np.ndarray, reference: np.ndarray,
) -> Row:
    size = config.evaluate.batch
    coder, source = evaluator.parts.tokenizer, images["image"]
    rebuilt = np.concatenate(
        [
            np.asarray(tokenizer.reconstruct(coder, source[i : i + size]))
            for i in range(0, len(source), size)
        ]
    )
    features, classes = evaluator.look(rebuilt)
    limit = len(some_real)
    precision, recall = precision_recall(some_real, features[:limit], config.evaluate.neighbours)
    return Row(
        method="reconstruction", fd_data=frechet_distance(features, real),
        fd_teacher=frechet_distance(features, reference),
        class_accuracy=float(np.mean(classes == images["label"])),
        precision=precision, recall=recall,
    )


def _spread(
    sets: list[np.ndarray], real: np.ndarray, reference: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of the distances over fresh sets of samples."""
    values = {
        "fd_data": [frechet_distance(features, real) for features in sets],
        "fd_teacher": [frechet_distance(features, reference) for features in sets],
    }
    return {
        name: {"mean": float(np.mean(v)), "std": float(np.std(v, ddof=min(1, len(v) - 1)))}
        for name, v in values.items()
    }


def _write_pictures(
    root: Path, config: Config, drawn: dict[Method, Drawn], rows: list[Row]
) -> None:
    classes = config.data.num_classes
    count = min(2 * classes, 20, config.evaluate.batch)
    # Two of each class side by side.
    order = sorted(range(count), key=lambda i: (i % classes, i))
    kinds = ("teacher_flow", "student", "refine", "onestep_class", "onestep_all")
    shown = {
        method.name: made.images[order] for method, made in drawn.items() if method.kind in kinds
    }
    pictures.labelled_grid(
        root / "samples.png", shown, [str(i % classes) for i in order],
        f"{config.name}: each column one noise draw (onestep* has none), captions are classes",
    )
    points = {
        row.method: (row.seconds_per_image, row.fd_teacher)
        for row in rows if row.seconds_per_image is not None
    }
    lines = {row.method: row.fd_teacher for row in rows if row.method.startswith("onestep")}
    pictures.tradeoff(
        root / "tradeoff.png", points, lines, "Fréchet distance to the teacher's samples"
    )


def _write_events(directory: Path, drawn: dict[Method, Drawn]) -> None:
    events = monitor.writer(directory)
    for method, made in drawn.items():
        events.write_images(0, {method.name: pictures.tile(made.images[:40], 10)[None]})
    events.close()
