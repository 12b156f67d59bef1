"""The configuration of a run: frozen, typed, and checked before anything is computed.

Files under configs/ make a ConfigDict; `from_dict` turns it into `Config`, which the rest of the
code reads. Every refusal names the key, what was found and what would be right.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddjax.errors import UserError
from ddjax.flow import Solver
from ddjax.groups import Groups
from ddjax.guidance import Guidance
from ddjax.methods import Method
from ddjax.models import MODELS

STAGES = ("tokenizer", "teacher", "pairs", "distill", "evaluate", "sample")


@dataclasses.dataclass(frozen=True)
class Data:
    """Images.

    Attributes:
      name: digits or fashion_mnist.
      image_size: pixels a side; images of another size are resized.
      num_classes: number of labels.
      directory: of Fashion-MNIST's IDX files; "" goes by TFDS.
      copies: of each image, all but the first slightly turned, scaled and moved; they count as
        data. For sets so small that a teacher learns them by heart within a minute.
    """

    name: str
    image_size: int
    num_classes: int
    directory: str = ""
    copies: int = 1


@dataclasses.dataclass(frozen=True)
class Train:
    """One run of the training loop: AdamW, warm-up then cosine to zero, clipping, EMA.

    Attributes:
      steps: updates.
      batch: examples in each.
      learning_rate: the highest, after `warmup` steps.
      weight_decay: on matrices only.
      clip: largest global norm of the gradient.
      ema: largest decay of the averaged weights; step n uses min(ema, (1 + n) / (10 + n)).
      log_every: steps between TensorBoard scalars; pictures come ten times in a run.
      checkpoint_every: steps between checkpoints.
      keep: checkpoints kept.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    b2: float = 0.95
    ema: float = 0.999
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the kind `kind` (`ddjax.models.MODELS`), of the sizes `model`, and its training.

    `model` is that kind's own frozen dataclass.
    """

    kind: str
    model: Any
    train: Train


@dataclasses.dataclass(frozen=True)
class Tokenizer(Model):
    """The VQ tokenizer; weights of its loss beside the squared error of the pixels.

    Attributes:
      commitment: squared distance of features and codes, as seen by the encoder.
      entropy: keeps the codebook in use (entropy of a feature less that of the batch).
    """

    commitment: float = 0.25
    entropy: float = 0.05


@dataclasses.dataclass(frozen=True)
class Teacher(Model):
    """The AR teacher; `label_dropout` is the share of labels replaced by "no condition"."""

    label_dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs (noise index, condition, ids): how many, how many a shard file, how many at once."""

    count: int
    per_shard: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Student:
    """The student and how it is sampled from.

    Attributes:
      kind: of `ddjax.models.MODELS`; sizes are the teacher's.
      steps: the values of k it is trained on and sampled with, in order; the first is 0.
      split: the first `split` groups are read from the logits, the rest from the vector head.
    """

    kind: str
    steps: tuple[int, ...]
    split: int


@dataclasses.dataclass(frozen=True)
class Distill:
    """Training of the student: weights of the two losses, and the net of the perceptual one."""

    train: Train
    perceptual_net: Model
    cross_entropy: float = 1.0
    perceptual: float = 1.0


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What the report measures.

    Attributes:
      samples: images for each row.
      batch: images made at once.
      methods: rows, by name (`ddjax.methods`).
      resamplings: fresh sets of samples from which the noise of the distances is told.
      neighbours: k of precision and recall.
      classifier: the net whose features are compared; not the one of the perceptual loss.
    """

    samples: int
    batch: int
    methods: tuple[str, ...]
    classifier: Model
    resamplings: int = 4
    neighbours: int = 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw images: the method (`ddjax.methods`), its passes or range, and labels or a count."""

    method: str = "student"
    passes: int = 1
    first: int = 0
    last: int = 0
    labels: tuple[int, ...] = ()
    count: int = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs; see the classes of the fields."""

    name: str
    seed: int
    stages: tuple[str, ...]
    data: Data
    tokenizer: Tokenizer
    teacher: Teacher
    guidance: Guidance
    flow: Solver
    pairs: Pairs
    student: Student
    distill: Distill
    evaluate: Evaluate
    sample: Sample
    restore: str = "latest"

    @property
    def groups(self) -> Groups:
        """The teacher's groups."""
        return self.teacher.model.groups

    def sample_method(self) -> Method:
        """The method that the keys under `sample` describe."""
        s = self.sample
        return Method.from_parts(s.method, passes=s.passes, first=s.first, last=s.last)

    def sample_labels(self) -> tuple[int, ...]:
        """The classes to draw: those asked for, or `count` of them in turn."""
        return self.sample.labels or tuple(
            i % self.data.num_classes for i in range(self.sample.count)
        )


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Build and check a `Config`.

    Raises:
      UserError: unknown or missing key, wrong type, value out of range, or a contradiction.
    """
    config = _build(Config, tree, "")
    _check(config)
    return config


def complete(tree: Mapping[str, Any]) -> ConfigDict:
    """What a file under configs/ returns: its keys, and all others at their defaults.

    So every key can be set on the command line. Tuples become text, "0,5", which is how they are
    written there.

    Raises:
      UserError: as `from_dict`, but for contradictions.
    """
    return ConfigDict(_plain(_build(Config, tree, "")))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _build(cls: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise UserError(f"config.{where.rstrip('.')}: expected keys and values, got {tree!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}"
            raise UserError(f"config.{where}{key}: unknown key; {hint}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], f"{where}{name}", tree)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"config.{where}{name}: missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"config.{where.rstrip('.')}: {error}") from None


def _convert(hint: Any, value: Any, where: str, siblings: Mapping[str, Any]) -> Any:
    if hint is Any:  # the sizes of a model, whose class its kind names
        kind = siblings["kind"]
        if kind not in MODELS:
            known = ", ".join(MODELS)
            raise UserError(f"config.{where}: unknown kind {kind!r} beside it; known are {known}")
        return _build(MODELS[kind].Config, value, f"{where}.")
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{where}.")
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str):  # from the command line: 3,3,7
            value = [part.strip() for part in value.split(",") if part.strip()]
            if item is int:
                value = [_parse_int(part, where) for part in value]
        if not isinstance(value, list | tuple):
            value = [value]
        return tuple(_convert(item, part, where, siblings) for part in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"config.{where}: expected {hint.__name__}, got {value!r}")
    return value


def _parse_int(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"config.{where}: expected whole numbers, got {text!r}") from None


def _require(holds: bool, where: str, found: Any, wanted: str) -> None:
    if not holds:
        raise UserError(f"config.{where}: got {found}, must be {wanted}")


def _check(c: Config) -> None:
    for stage in c.stages:
        _require(stage in STAGES, "stages", stage, f"among {', '.join(STAGES)}")
    _require(bool(c.stages), "stages", "none", f"one or more of {', '.join(STAGES)}")
    _require(c.restore in ("latest", "previous"), "restore", c.restore, "latest or previous")
    _check_models(c)
    _check_guidance(c)
    _check_student(c)
    _check_methods(c)
    for where, train in _trainings(c):
        for key in ("steps", "batch", "log_every", "checkpoint_every", "keep"):
            _require(getattr(train, key) >= 1, f"{where}.{key}", getattr(train, key), ">= 1")
        _require(train.learning_rate > 0, f"{where}.learning_rate", train.learning_rate, "> 0")
        _require(0 <= train.ema < 1, f"{where}.ema", train.ema, "in [0, 1)")
        _require(train.clip > 0, f"{where}.clip", train.clip, "> 0")
        _require(
            0 <= train.warmup <= train.steps, f"{where}.warmup", train.warmup, "in 0..steps"
        )
    for key in ("count", "per_shard", "batch"):
        _require(getattr(c.pairs, key) >= 1, f"pairs.{key}", getattr(c.pairs, key), ">= 1")
    batch, count = c.distill.train.batch, c.pairs.count
    _require(batch <= count, "distill.train.batch", batch, f"at most pairs.count {count}")
    for key in ("samples", "batch", "resamplings", "neighbours"):
        _require(getattr(c.evaluate, key) >= 1, f"evaluate.{key}", getattr(c.evaluate, key), ">= 1")
    _require(c.flow.steps >= c.flow.order, "flow.steps", c.flow.steps, ">= flow.order")
    _require(1 <= c.flow.order <= 4, "flow.order", c.flow.order, "in 1..4")
    _require(c.flow.stretch > 0, "flow.stretch", c.flow.stretch, "> 0")


def _trainings(c: Config) -> list[tuple[str, Train]]:
    return [
        ("tokenizer.train", c.tokenizer.train),
        ("teacher.train", c.teacher.train),
        ("distill.train", c.distill.train),
        ("distill.perceptual_net.train", c.distill.perceptual_net.train),
        ("evaluate.classifier.train", c.evaluate.classifier.train),
    ]


def _check_models(c: Config) -> None:
    tokenizer, teacher = c.tokenizer.model, c.teacher.model
    for key in ("vocab_size", "code_dim", "grid", "scales"):  # not all families have scales
        ours, theirs = getattr(teacher, key, "none"), getattr(tokenizer, key, "none")
        _require(ours == theirs, f"teacher.model.{key}", ours, f"the tokenizer's, {theirs}")
    classes = c.data.num_classes
    sized = {"tokenizer": c.tokenizer, "distill.perceptual_net": c.distill.perceptual_net}
    for where, part in {**sized, "evaluate.classifier": c.evaluate.classifier}.items():
        size = part.model.image_size
        _require(
            size == c.data.image_size, f"{where}.model.image_size", size, f"{c.data.image_size}, "
            "as data.image_size"
        )
    for where, part in (("teacher", c.teacher), ("evaluate.classifier", c.evaluate.classifier)):
        found = part.model.num_classes
        _require(found == classes, f"{where}.model.num_classes", found, f"{classes}, as the data's")


def _check_guidance(c: Config) -> None:
    g, vocab = c.guidance, c.teacher.model.vocab_size
    schedules = ("constant", "linear")
    _require(g.schedule in schedules, "guidance.schedule", g.schedule, "constant or linear")
    _require(g.temperature > 0, "guidance.temperature", g.temperature, "> 0")
    _require(0 <= g.top_k <= vocab, "guidance.top_k", g.top_k, f"in 0..{vocab} (0: all)")
    _require(0 < g.top_p <= 1, "guidance.top_p", g.top_p, "in (0, 1]")
    dropout = c.teacher.label_dropout
    _require(0 <= dropout < 1, "teacher.label_dropout", dropout, "in [0, 1)")
    _require(
        dropout > 0 or not g.is_guided, "teacher.label_dropout", dropout,
        f"> 0 for guidance.scale {g.scale}: guidance needs a teacher that also learned no condition"
    )


def _check_student(c: Config) -> None:
    s, count = c.student, c.groups.count
    students = [
        kind for kind, cls in MODELS.items()
        if hasattr(cls, "from_teacher") and cls.Config is type(c.teacher.model)
    ]
    _require(s.kind in students, "student.kind", s.kind, f"a student of {c.teacher.kind}: "
             f"{', '.join(students)}")
    _require(0 <= s.split <= count, "student.split", s.split, f"in 0..{count} groups")
    rising = all(a < b for a, b in zip(s.steps, s.steps[1:], strict=False))
    ok = bool(s.steps) and s.steps[0] == 0 and rising and s.steps[-1] < count
    _require(ok, "student.steps", s.steps, f"rising from 0, below the {count} groups")


def _check_methods(c: Config) -> None:
    for where, method in (
        *(("evaluate.methods", Method.parse(name)) for name in c.evaluate.methods),
        ("sample.method", c.sample_method()),
    ):
        problem = method.problem(c.groups.count, len(c.student.steps))
        if problem:
            raise UserError(f"config.{where}: {method.name}: {problem}")
    for label in c.sample.labels:
        classes = c.data.num_classes
        _require(0 <= label < classes, "sample.labels", label, f"in 0..{classes - 1}")
    _require(bool(c.sample_labels()), "sample.count", c.sample.count, ">= 1")
